// Who is there and how they are; and which policy is in charge.

import { call } from "./api.js";
import { confirmed } from "./confirm.js";
import { Facts, h, labelled } from "./dom.js";
import { Table } from "./table.js";
import { enumInWords, moment, number, percent, plural } from "./words.js";

export class FleetView {
  title = "Fleet";

  constructor(house) {
    this.house = house;
    this.now = new Facts();
    this.learning = new Facts();
    this.workers = new Table({
      caption: "Workers",
      empty: "This controller has no workers.",
      columns: [
        { title: "Name", head: true, text: (state) => state.worker?.name || "?" },
        { title: "Role", text: (state) => enumInWords(state.worker?.role ?? "?", "WORKER_ROLE_") },
        { title: "Address", text: (state) => state.address },
        { title: "State", text: health, update: marked },
        { title: "Sessions", number: true, text: (state) => `${state.open_sessions} of ${state.worker?.slots ?? "?"}` },
        { title: "Model", text: (state) => lastPart(state.worker?.model ?? "") },
        { title: "Numbers", text: (state) => `${state.worker?.dtype ?? "?"} on ${state.worker?.device ?? "?"}` },
      ],
    });
    this.policy = h("select");
    this.element = h(
      "section",
      {},
      h("h2", { tabindex: -1 }, "Fleet"),
      this.now.element,
      this.workers.element,
      h("h3", {}, "Who decides"),
      h(
        "form",
        { class: "line", onsubmit: (event) => this.#setPolicy(event) },
        labelled("Policy where a request names none", this.policy),
        h("button", { type: "submit" }, "Put in charge"),
      ),
      h("h3", {}, "Log and learning"),
      this.learning.element,
    );
  }

  async update() {
    const shown = this.house.shown;
    const traffic = await call("RouterService/ShowTraffic");
    this.workers.show(shown.workers, (state) => state.address);
    this.now.show({
      "Requests inside": `${traffic.in_flight} of ${traffic.capacity}, ${traffic.waiting} waiting for a first token`,
      "Ended since it began": number(sum(traffic.ended, "requests")),
      "Turned away": number(Number(traffic.refused)),
      "Mean time to the first token": firstToken(traffic),
      "Running since": moment(traffic.since_ms),
      Configuration: shown.config.problem ? `WRONG: ${shown.config.problem}` : `in force (${shown.config.hash})`,
    });
    this.learning.show({ "Decision log": log(shown.log), Learning: learning(shown.learning), Scoring: scoring(shown.scoring) });
    if (!this.policy.children.length) {
      this.policy.append(...shown.known_policies.map((name) => h("option", {}, name)));
      this.policy.value = shown.policy;
    }
  }

  close() {}

  async #setPolicy(event) {
    event.preventDefault();
    const policy = this.policy.value;
    if (!(await confirmed(`Let ${policy} decide, in place of ${this.house.shown.policy}?`, "Put in charge"))) return;
    await this.house.act(async () => {
      const { previous_policy: before } = await call("RouterService/SetPolicy", { policy });
      this.house.tell(`${policy} decides from now on, in place of ${before}.`);
    });
  }
}

/** Of a folder on the worker's machine its name; a hub id stays whole. */
function lastPart(model) {
  return model.replace(/^(suffix:)?\/.*\//, "$1");
}

function health(state) {
  const words = enumInWords(state.health, "WORKER_HEALTH_");
  return state.problem ? `${words}: ${state.problem}` : words;
}

function marked(state, cell) {
  cell.classList.toggle("wrong", state.health !== "WORKER_HEALTH_SERVING");
}

function sum(entries, field) {
  return entries.reduce((total, entry) => total + Number(entry[field]), 0);
}

function firstToken(traffic) {
  const rounds = Number(traffic.first_rounds);
  return rounds ? `${number((1000 * traffic.first_rounds_s) / rounds)} ms` : "–";
}

function log(state) {
  if (!state.url) return "none";
  const reached = state.connected ? "reached" : "OUT OF REACH";
  return `${state.url}, ${reached}; ${number(Number(state.written))} written, ${number(Number(state.dropped))} lost`;
}

function learning(state) {
  if (!state.policy) return "each controller for itself";
  const who = state.leads ? "this controller learns for all" : "another controller learns";
  const since = Number(state.base_version) ? `since version ${state.base_version}` : "from nothing";
  return `${state.policy}: ${who}, ${plural(Number(state.folded), "record")} ${since}${state.problem && `; ALONE: ${state.problem}`}`;
}

function scoring(state) {
  return `${percent(state.share)} of the answers; ${number(Number(state.scored))} scored, ${state.waiting} waiting, ${number(Number(state.dropped))} given up`;
}
