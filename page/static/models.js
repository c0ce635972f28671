// Versions of what the router has learnt: which one is in charge, what sets them apart, and the way back.

import { call, Refused } from "./api.js";
import { confirmed } from "./confirm.js";
import { choice, h, labelled, say } from "./dom.js";
import { Table } from "./table.js";
import { moment, number } from "./words.js";

const NOW = ["0", "what serves now"];

export class ModelsView {
  title = "Models";

  constructor(house) {
    this.house = house;
    this.history = null;
    this.note = h("p", { class: "note" });
    this.rollback = h("button", { type: "button", class: "danger", onclick: () => this.#rollback() }, "Roll back");
    this.versions = new Table({
      caption: "Versions, the newest first",
      empty: ["No versions yet: the router goes on from what it learns online. ", h("code", {}, "forerun router retrain"), " makes one."],
      columns: [
        { title: "Version", head: true, number: true, text: (one) => one.version },
        { title: "In charge", text: (one) => this.#place(one) },
        { title: "Made", text: (one) => moment(one.created_ms) },
        { title: "How", text: (one) => one.origin },
        { title: "From", number: true, text: (one) => (Number(one.parent) ? one.parent : "–") },
        { title: "KiB", number: true, text: (one) => number(Number(one.num_bytes) / 1024) },
        { title: "Measured", text: measured },
        { title: "Action", node: (row) => this.#promoteButton(row), update: (one, cell) => this.#allow(one, cell) },
      ],
    });
    this.pair = h("p", { class: "line" });
    this.difference = h("div");
    this.comparison = h("div", { hidden: true }, h("h3", {}, "Compare"), this.pair, this.difference);
    this.element = h(
      "section",
      {},
      h("h2", { tabindex: -1 }, "Models"),
      this.note,
      this.versions.element,
      h("p", { class: "line" }, this.rollback),
      this.comparison,
    );
  }

  async update() {
    try {
      this.history = await call("ModelService/ListVersions");
    } catch (error) {
      if (!(error instanceof Refused && error.status === 501)) throw error;
      say(this.note, error.message);
      this.rollback.disabled = true;
      return;
    }
    const { policy, versions, active, before } = this.history;
    const charge = Number(active) ? `version ${active} is in charge, and what was learnt since` : "what was learnt online is in charge";
    say(this.note, `Of the policy ${policy}: ${charge}.`);
    this.rollback.disabled = !Number(before);
    say(this.rollback, Number(before) ? `Roll back to version ${before}` : "Nothing to roll back to");
    this.versions.show(versions, (one) => one.version);
    this.#offerPairs(versions);
  }

  close() {}

  #place(one) {
    if (one.version === this.history.active) return "yes";
    return one.version === this.history.before ? "before" : "";
  }

  #promoteButton(row) {
    const { version } = row();
    return h("button", { type: "button", onclick: () => this.#promote(version) }, `Promote version ${version}`);
  }

  #allow(one, cell) {
    cell.firstChild.disabled = one.version === this.history.active;
  }

  async #promote(version) {
    const { active, policy } = this.history;
    const question = `Put version ${version} in charge, on all controllers? What was learnt until now is kept as a version.`;
    if (!(await confirmed(question, "Promote"))) return;
    await this.house.act(async () => {
      await call("ModelService/Promote", { policy, version, replacing: active });
      this.house.tell(`Version ${version} is in charge.`);
    });
  }

  async #rollback() {
    const { active, before, policy } = this.history;
    if (!(await confirmed(`Put version ${before} back in charge, on all controllers?`, "Roll back"))) return;
    await this.house.act(async () => {
      const now = await call("ModelService/Rollback", { policy, replacing: active });
      this.house.tell(`Version ${now.active} is in charge again.`);
    });
  }

  /** Choices are made anew only where there are others, so that nobody loses what he has chosen. */
  #offerPairs(versions) {
    const numbers = versions.map((one) => one.version).join();
    if (numbers === this.offered) return;
    this.offered = numbers;
    const options = [...versions.map((one) => [one.version, `version ${one.version}`]), NOW];
    const old = choice(options, options.at(Math.min(1, options.length - 1))[0], () => {});
    const now = choice(options, options[0][0], () => {});
    const button = h("button", { type: "button", onclick: () => this.#compare(old.value, now.value) }, "Compare");
    this.pair.replaceChildren(labelled("From", old), labelled("to", now), button);
    this.difference.replaceChildren();
    this.comparison.hidden = !versions.length;
  }

  async #compare(old, now) {
    await this.house.act(async () => {
      const told = await call("ModelService/CompareVersions", {
        policy: this.history.policy,
        old_version: old,
        new_version: now,
      });
      const about = (version) => this.history.versions.find((one) => one.version === version);
      this.difference.replaceChildren(...difference(told, about(old), about(now)));
    });
  }
}

function measured(one) {
  const figures = Object.entries(one.evaluation);
  return figures.map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ") || "–";
}

function difference(told, old, now) {
  const tables = new Table({
    caption: "Tables of numbers that differ",
    empty: "No number differs.",
    columns: [
      { title: "Table", head: true, text: (table) => table.name },
      { title: "Numbers before", number: true, text: (table) => number(Number(table.old_numbers)) },
      { title: "Numbers after", number: true, text: (table) => number(Number(table.new_numbers)) },
      { title: "Changed", number: true, text: changed },
      { title: "Largest change", number: true, text: (table) => (sameForm(table) ? number(table.largest_change) : "–") },
    ],
  });
  tables.show(told.tables, (table) => table.name);
  const figures = new Table({
    caption: "What was measured of them",
    empty: "Nothing was measured of either.",
    columns: [
      { title: "Figure", head: true, text: (row) => row.name },
      { title: "Before", number: true, text: (row) => row.old },
      { title: "After", number: true, text: (row) => row.now },
    ],
  });
  const names = new Set([...Object.keys(old?.evaluation ?? {}), ...Object.keys(now?.evaluation ?? {})]);
  const rows = [...names].map((name) => ({ name, old: old?.evaluation[name] ?? "–", now: now?.evaluation[name] ?? "–" }));
  figures.show(rows, (row) => row.name);
  const equal = h("p", {}, `${told.equal_tables} tables are equal to the last bit.`);
  return [tables.element, equal, figures.element];
}

function sameForm(table) {
  return Number(table.changed) > 0;
}

function changed(table) {
  return sameForm(table) ? number(Number(table.changed)) : "another form";
}
