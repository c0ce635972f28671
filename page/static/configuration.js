// What is in force, what was before, and what operators did.

import { call } from "./api.js";
import { Facts, h, say } from "./dom.js";
import { Table } from "./table.js";
import { moment } from "./words.js";

const CHANGES = [
  { title: "Field", head: true, text: (change) => change.field },
  { title: "Before", text: (change) => change.old_value || "–" },
  { title: "After", text: (change) => change.new_value || "–" },
];

export class ConfigurationView {
  title = "Configuration";

  constructor(house) {
    this.house = house;
    this.facts = new Facts();
    this.waiting = new Table({ caption: "Waits for a restart", empty: "Nothing waits for a restart.", columns: CHANGES });
    this.history = h("ol", { class: "history" });
    this.inForce = h("pre", { tabindex: 0, role: "region", "aria-label": "Configuration in force" });
    this.acts = new Table({
      caption: "What operators did by calls, the newest first",
      empty: "Nothing since the controller began.",
      columns: [
        { title: "When", head: true, text: (act) => moment(act.ts_ms) },
        { title: "What", text: (act) => act.act },
        { title: "About", text: (act) => act.detail || "–" },
        { title: "Token's hash begins", text: (act) => act.token || "no token" },
        { title: "From", text: (act) => act.peer },
      ],
    });
    this.element = h(
      "section",
      {},
      h("h2", { tabindex: -1 }, "Configuration"),
      this.facts.element,
      h("p", { class: "line" }, h("button", { type: "button", onclick: () => this.#reload() }, "Read the file now")),
      this.waiting.element,
      h("h3", {}, "History"),
      this.history,
      h("h3", {}, "In force"),
      this.inForce,
      h("h3", {}, "Acts"),
      this.acts.element,
    );
  }

  async update() {
    const { config, in_force: yaml, waiting, history } = await call("RouterService/ShowConfig");
    const { acts } = await call("RouterService/ListActs");
    this.facts.show({
      File: config.file || "none: it never changes",
      "Hash of what is in force": config.hash,
      "What is wrong with the file": config.problem || "nothing",
    });
    this.waiting.show(waiting, (change) => change.field);
    this.acts.show(acts, (act) => `${act.ts_ms} ${act.act} ${act.detail} ${act.peer}`);
    say(this.inForce, yaml);
    this.#showHistory(history);
  }

  close() {}

  #showHistory(history) {
    const newest = history[0]?.ts_ms ?? "never";
    if (newest === this.newest) return;
    this.newest = newest;
    const entries = history.map((replacement, place) => h("li", {}, entry(replacement, { open: place === 0 })));
    this.history.replaceChildren(...(entries.length ? entries : [h("li", {}, "Never changed since the controller began.")]));
  }

  async #reload() {
    await this.house.act(async () => {
      const { changed } = await call("RouterService/ReloadConfig");
      this.house.tell(changed.length ? `Changed: ${changed.join(", ")}.` : "Nothing has changed.");
    });
  }
}

function entry(replacement, { open }) {
  const { ts_ms: when, old_hash: before, new_hash: after, changes } = replacement;
  const table = new Table({ caption: `Changes of ${moment(when)}`, columns: CHANGES, hidden: true });
  table.show(changes, (change) => change.field);
  return h("details", { open }, h("summary", {}, `${moment(when)}: ${before} became ${after}`), table.element);
}
