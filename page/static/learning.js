// Whether requests become faster as the router learns.

import { call } from "./api.js";
import { Facts, h } from "./dom.js";
import { Plot } from "./plot.js";
import { Table } from "./table.js";
import { moment, number, times } from "./words.js";

/** Points that are also shown together: one request is fast or slow by what it asks for. */
const TOGETHER = 8;

export class LearningView {
  title = "Learning";

  constructor(house) {
    this.house = house;
    this.facts = new Facts();
    this.speed = new Plot({ title: "Tokens per second of a request, over requests served", unit: "tokens per second", base: "plain decoding", time: false });
    this.length = new Plot({ title: "Tokens a round, over requests served", unit: "tokens", time: false });
    this.table = new Table({
      caption: "Requests in the order in which they ended",
      empty: "No request has ended yet.",
      columns: [
        { title: "Requests until", head: true, number: true, text: (row) => number(row.until) },
        { title: "Ended", text: (row) => moment(row.until_ms) },
        { title: "Tokens/s", number: true, text: (row) => number(row.speed) },
        { title: "Plain decoding so far", number: true, text: (row) => number(row.plainSoFar) },
        { title: "Over plain", number: true, text: (row) => times(row.speed / row.plainSoFar) },
        { title: "Tokens a round", number: true, text: (row) => number(row.length) },
        { title: "Records learnt", number: true, text: (row) => number(Number(row.learnt_records)) },
        { title: "Version", number: true, text: (row) => (Number(row.base_version) ? row.base_version : "–") },
      ],
    });
    this.element = h(
      "section",
      {},
      h("h2", { tabindex: -1 }, "Learning"),
      this.facts.element,
      h("div", { class: "plots" }, this.speed.element, this.length.element),
      h("details", {}, h("summary", {}, "As a table"), this.table.element),
      h(
        "p",
        { class: "note" },
        "All requests since this controller began, whatever they asked for, against the plain rounds among them: a curve ",
        "also moves where the traffic changes. ",
        h("code", {}, "forerun router retrain"),
        " draws one that does not, from the log.",
      ),
    );
  }

  async update() {
    const { points } = await call("RouterService/ShowLearningCurve");
    const rows = rowsOf(points);
    const learning = this.house.shown.learning;
    this.facts.show({
      Policy: learning.policy || this.house.shown.policy,
      "Records learnt": number(Number(learning.folded)),
      "Since version": Number(learning.base_version) ? learning.base_version : "none: it began with nothing",
      "Last written": Number(learning.written_ms) ? moment(learning.written_ms) : "–",
      "Who learns": learning.policy ? (learning.leads ? "this controller, for all" : "another controller") : "each for itself",
      Problem: learning.problem || "none",
    });
    const places = rows.map((row) => row.until);
    this.speed.show(places, {
      requests: rows.map((row) => row.speed),
      [`the last ${TOGETHER} together`]: rows.map((row) => row.together),
      "plain decoding": rows.map((row) => row.plainSoFar),
    });
    this.length.show(places, { "tokens a round": rows.map((row) => row.length) });
    this.table.show(rows.toReversed(), (row) => row.until);
  }

  close() {
    this.speed.close();
    this.length.close();
  }
}

function rowsOf(points) {
  let until = 0;
  const plain = { emitted: 0, seconds: 0 };
  const last = [];
  return points.map((point) => {
    until += point.requests;
    plain.emitted += Number(point.plain.emitted_tokens);
    plain.seconds += point.plain.rounds_s;
    const rounds = Number(point.drafting.rounds) + Number(point.plain.rounds);
    const emitted = Number(point.drafting.emitted_tokens) + Number(point.plain.emitted_tokens);
    const seconds = point.drafting.rounds_s + point.plain.rounds_s;
    last.push({ emitted, seconds });
    if (last.length > TOGETHER) last.shift();
    return {
      ...point,
      until,
      speed: speed([{ emitted, seconds }]),
      together: speed(last),
      plainSoFar: plain.seconds ? plain.emitted / plain.seconds : null,
      length: rounds ? emitted / rounds : null,
    };
  });
}

function speed(sums) {
  const total = (field) => sums.reduce((sum, one) => sum + one[field], 0);
  return total("seconds") ? total("emitted") / total("seconds") : null;
}
