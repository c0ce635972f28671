// The last requests, and one of them round by round.

import { call } from "./api.js";
import { Facts, h } from "./dom.js";
import { Table } from "./table.js";
import { roundCard } from "./round.js";
import { enumInWords, milliseconds, moment, number, percent } from "./words.js";

export class RequestsView {
  title = "Requests";

  constructor() {
    this.table = new Table({
      caption: "Recent requests, the newest first",
      empty: "No request yet.",
      columns: [
        { title: "Request", head: true, node: link },
        { title: "Began", text: (one) => moment(one.started_ms) },
        { title: "Task", text: (one) => one.task || "–" },
        { title: "Tenant", text: (one) => one.tenant || "–" },
        { title: "Policy", text: (one) => one.policy },
        { title: "Drafted by", text: (one) => one.drafters.join(", ") || "nobody" },
        { title: "Ended", text: outcome },
        { title: "Tokens", number: true, text: (one) => `${one.prompt_tokens} + ${one.completion_tokens}` },
        { title: "Rounds", number: true, text: (one) => String(one.rounds) },
        { title: "Tokens a round", number: true, text: (one) => number(one.completion_tokens / one.rounds) },
        { title: "Tokens/s", number: true, text: speed },
      ],
    });
    this.element = h(
      "section",
      {},
      h("h2", { tabindex: -1 }, "Requests"),
      this.table.element,
      h("p", { class: "note" }, "A controller remembers its last thousand requests; here are the last hundred."),
    );
  }

  async update() {
    const { requests } = await call("RouterService/ListRequests");
    this.table.show(requests, (one) => one.request_id);
  }

  close() {}
}

export class RequestView {
  constructor(house, id) {
    this.id = id;
    this.title = `Request ${id}`;
    this.facts = new Facts();
    this.rounds = h("ol", { class: "rounds" });
    this.note = h("p", { class: "note" });
    this.element = h(
      "section",
      {},
      h("p", {}, h("a", { href: "#requests" }, "All requests")),
      h("h2", { tabindex: -1 }, `Request ${id}`),
      this.facts.element,
      this.note,
      this.rounds,
    );
  }

  async update() {
    if (this.complete) return;
    const told = await call("RouterService/Explain", { request_id: this.id, respect_privacy: true });
    const one = told.request;
    this.facts.show({
      Ended: outcome(one),
      Policy: one.policy,
      "Task, tenant": `${one.task || "–"}, ${one.tenant || "–"}`,
      Tokens: `${one.prompt_tokens} of the prompt, ${one.completion_tokens} of the answer`,
      "Accepted of drafted": `${one.num_accepted_draft_tokens} of ${one.num_draft_tokens} (${percent(one.num_accepted_draft_tokens / one.num_draft_tokens)})`,
      "Tokens a round": number(one.completion_tokens / one.rounds),
      "Time in rounds": `${milliseconds(one.rounds_ns)}, ${speed(one)} tokens/s`,
    });
    this.note.textContent = told.texts_withheld
      ? "The texts of this tenant are not shown: the configuration lets nobody keep them (privacy.log_tokens_of). Nodes are named by their rank among their siblings."
      : "";
    const known = this.rounds.children.length;
    this.rounds.append(...told.rounds.slice(known).map((round) => h("li", {}, roundCard(round, { open: !round.round }))));
    this.complete = one.outcome !== "OUTCOME_STATUS_UNSPECIFIED";
  }

  close() {}
}

function link(row) {
  const id = row().request_id;
  return h("a", { href: `#requests/${encodeURIComponent(id)}`, "aria-label": `Open request ${id}` }, id);
}

function outcome(one) {
  const words = enumInWords(one.outcome, "OUTCOME_STATUS_");
  return words === "unspecified" ? "it runs" : words === "ok" ? "well" : words;
}

function speed(one) {
  return number(one.completion_tokens / (Number(one.rounds_ns) / 1e9));
}
