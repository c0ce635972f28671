// What is served now, and how much faster than plain decoding: the difference of two readings of the same counters.

import { call } from "./api.js";
import { choice, Facts, h, labelled } from "./dom.js";
import { Plot } from "./plot.js";
import { Table } from "./table.js";
import { number, percent, times } from "./words.js";

const PLAIN = "none";
const MOST_READINGS = 600;
const FIELDS = ["rounds", "drafted_tokens", "accepted_tokens", "emitted_tokens", "rounds_s"];

/** Kept from view to view, so that who looks elsewhere for a moment comes back to the whole line. A span is what
 * happened in the window before a reading. */
const readings = [];
const spans = [];
const settings = { group: "drafters", window: "10" };

export class TrafficView {
  title = "Traffic";

  constructor(house) {
    this.house = house;
    this.now = new Facts();
    this.speed = new Plot({ title: "Tokens per second of a request", unit: "tokens per second", base: "plain decoding" });
    this.length = new Plot({ title: "Accepted tokens a round", unit: "tokens" });
    this.table = new Table({
      caption: "Rounds in the window, and since the controller began",
      empty: "No round yet.",
      columns: [
        { title: "Of", head: true, text: (row) => row.name },
        { title: "Rounds/s", number: true, text: (row) => number(row.perSecond) },
        { title: "Accepted a round", number: true, text: (row) => number(row.now.length) },
        { title: "Accepted of drafted", number: true, text: (row) => percent(row.now.share) },
        { title: "Tokens/s", number: true, text: (row) => number(row.now.speed) },
        { title: "Over plain", number: true, text: (row) => times(row.now.speed / row.plain) },
        { title: "Rounds in all", number: true, text: (row) => number(row.all.rounds) },
        { title: "Accepted a round in all", number: true, text: (row) => number(row.all.length) },
        { title: "Tokens/s in all", number: true, text: (row) => number(row.all.speed) },
        { title: "Over plain in all", number: true, text: (row) => times(row.all.speed / row.plainOfAll) },
      ],
    });
    const again = (name) => (value) => {
      settings[name] = value;
      spans.splice(0, Infinity, ...readings.map((_, place) => spanOf(place)));
      this.draw();
    };
    const groups = [["drafters", "drafters"], ["task", "task"], ["policy", "policy"]];
    const windows = [["10", "10 seconds"], ["30", "30 seconds"], ["120", "2 minutes"]];
    this.element = h(
      "section",
      {},
      h("h2", { tabindex: -1 }, "Traffic"),
      this.now.element,
      h(
        "p",
        { class: "line" },
        labelled("By", choice(groups, settings.group, again("group"))),
        labelled("Over the last", choice(windows, settings.window, again("window"))),
      ),
      h("div", { class: "plots" }, this.speed.element, this.length.element),
      this.table.element,
      h(
        "p",
        { class: "note" },
        "Tokens per second are those of one request: emitted tokens over the time that its rounds took. Plain decoding is ",
        "measured, too: in rounds in which nothing was drafted, in the window if there were any, else since the controller ",
        "began. A dash: there was none.",
      ),
    );
  }

  async update() {
    const traffic = await call("RouterService/ShowTraffic");
    const last = readings.at(-1);
    if (last && last.since_ms !== traffic.since_ms) readings.length = spans.length = 0;
    readings.push(traffic);
    spans.push(spanOf(readings.length - 1));
    if (readings.length > MOST_READINGS) {
      readings.shift();
      spans.shift();
    }
    this.draw();
  }

  close() {
    this.speed.close();
    this.length.close();
  }

  draw() {
    if (!readings.length) return;
    const now = readings.at(-1);
    const span = spans.at(-1);
    this.now.show({
      "Tokens per second, all requests together": number(span.total.emitted_tokens / span.seconds),
      "Requests inside": `${now.in_flight} of ${now.capacity}, ${now.waiting} waiting for a first token`,
      "Ended per second": number(span.ended / span.seconds),
      "Not well": number(notWell(now)),
      "Turned away": number(Number(now.refused)),
    });
    this.#drawPlots();
    this.#drawTable(now, span);
  }

  #drawPlots() {
    const names = [...new Set(spans.flatMap((span) => [...span.groups.keys()]))].sort();
    const line = (value) => (name) => spans.map((span) => value(span.groups.get(name)));
    const speeds = Object.fromEntries(names.filter(drafts).map((name) => [name, line((sums) => figures(sums).speed)(name)]));
    speeds["plain decoding"] = spans.map((span) => figures(span.plain).speed);
    const lengths = names.filter(drafts).map((name) => [name, line((sums) => figures(sums).length)(name)]);
    const seconds = spans.map((span) => span.until_ms / 1000);
    this.speed.show(seconds, speeds);
    this.length.show(seconds, Object.fromEntries(lengths));
  }

  #drawTable(now, span) {
    const all = between(null, now);
    const rows = [...all.groups].map(([name, sums]) => ({
      name: name === PLAIN && settings.group === "drafters" ? "plain decoding" : name,
      perSecond: (span.groups.get(name)?.rounds ?? 0) / span.seconds,
      now: figures(span.groups.get(name)),
      plain: figures(plainOf(span, name)).speed ?? figures(plainOf(all, name)).speed,
      all: figures(sums),
      plainOfAll: figures(plainOf(all, name)).speed,
    }));
    rows.sort((one, other) => other.all.rounds - one.all.rounds);
    this.table.show(rows, (row) => row.name);
  }
}

/** Whether a line of a plot is about drafting: plain decoding has one of its own. */
function drafts(name) {
  return settings.group !== "drafters" || name !== PLAIN;
}

/** What happened in the window that ends with a reading, as far back as there are readings. */
function spanOf(place) {
  const from = Number(readings[place].now_ms) - 1000 * Number(settings.window);
  let first = Math.max(place - 1, 0);
  while (first > 0 && Number(readings[first - 1].now_ms) >= from) first -= 1;
  return between(readings[first], readings[place]);
}

/** What happened between two readings; from the controller's beginning where there is no first one. */
function between(before, now) {
  const groups = new Map();
  const plain = new Map();
  const known = new Map((before?.arms ?? []).map((arm) => [armName(arm), arm]));
  for (const arm of now.arms) {
    const gained = gain(known.get(armName(arm)), arm);
    if (!gained.rounds) continue;
    add(groups, arm[settings.group] || "no label", gained);
    if (arm.drafters === PLAIN) add(plain, settings.group === "task" ? arm.task : "", gained);
  }
  const ended = (reading) => (reading?.ended ?? []).reduce((total, one) => total + Number(one.requests), 0);
  return {
    until_ms: Number(now.now_ms),
    seconds: Math.max(Number(now.now_ms) - Number(before?.now_ms ?? now.since_ms), 1) / 1000,
    groups,
    total: total(groups),
    plain: total(plain),
    plainBy: plain,
    ended: ended(now) - ended(before),
  };
}

/** Plain decoding of the same task where tasks are told apart, else of all. */
function plainOf(span, name) {
  return settings.group === "task" ? span.plainBy.get(name === "no label" ? "" : name) : span.plain;
}

function armName(arm) {
  return [arm.drafters, arm.shape, arm.task, arm.policy].join("\n");
}

function gain(before, now) {
  return Object.fromEntries(FIELDS.map((field) => [field, Number(now[field]) - Number(before?.[field] ?? 0)]));
}

function add(sums, name, more) {
  const sum = sums.get(name) ?? Object.fromEntries(FIELDS.map((field) => [field, 0]));
  for (const field of FIELDS) sum[field] += more[field];
  sums.set(name, sum);
}

function total(sums) {
  const all = new Map();
  for (const sum of sums.values()) add(all, "", sum);
  return all.get("") ?? Object.fromEntries(FIELDS.map((field) => [field, 0]));
}

function figures(sums) {
  if (!sums?.rounds) return { rounds: 0, speed: null, length: null, share: NaN };
  return {
    rounds: sums.rounds,
    speed: sums.rounds_s ? sums.emitted_tokens / sums.rounds_s : null,
    length: sums.accepted_tokens / sums.rounds,
    share: sums.accepted_tokens / sums.drafted_tokens,
  };
}

function notWell(reading) {
  return reading.ended.filter((one) => one.outcome !== "ok").reduce((sum, one) => sum + Number(one.requests), 0);
}
