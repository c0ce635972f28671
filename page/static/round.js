// One round: what was decided and why, where its time went, and the tree of which the target kept a path.

import { h, svg } from "./dom.js";
import { Table } from "./table.js";
import { milliseconds, number, percent, shapeInWords } from "./words.js";

const LEVEL = 165;
const ROW = 30;
const ROOT = 20;
const GAP = 30;
const BOX = { width: LEVEL - GAP, height: 22 };
const MOST_LETTERS = 10;

/** A round that can be opened; it is drawn when it is. */
export function roundCard(round, { open }) {
  const body = h("div", { class: "round" });
  const card = h("details", { open, ontoggle: draw }, h("summary", {}, headline(round)), body);
  function draw() {
    if (card.open && !body.children.length) body.append(...contents(round));
  }
  draw();
  return card;
}

function headline(round) {
  const { drafters, shape } = round.decision;
  const plan = drafters.length ? `${drafters.join(" + ")}, ${shapeInWords(shape)}` : "plain decoding";
  const drafted = parents(round).length;
  const kept = drafted ? `, kept ${round.accepted.length} of ${drafted}` : "";
  return `Round ${round.round + 1}: ${plan}${kept}, ${milliseconds(round.timings?.round_ns ?? 0)}`;
}

function contents(round) {
  const { decision } = round;
  const nodes = nodesOf(round);
  const lines = [
    h("p", { class: "why" }, h("strong", {}, "Why: "), decision.explanation || "plain decoding"),
    h(
      "p",
      {},
      `${decision.policy}${decision.model_version && ` (version ${decision.model_version})`} chose this with a probability of ${percent(decision.propensity)}.`,
      ...remarks(round),
    ),
    times(round.timings ?? {}),
  ];
  if (!nodes.length) return [...lines, h("p", {}, `Nothing was drafted; the target emitted ${extra(round)}.`)];
  return [...lines, drawing(round, nodes), asTable(nodes)];
}

function remarks(round) {
  const told = [
    [round.foreseen_drafters, "drafted ahead, while the target judged the round before"],
    [round.silent_drafters, "had nothing to say"],
    [round.missing_drafters, "did not answer in time"],
  ];
  return told.filter(([who]) => who.length).map(([who, what]) => ` ${who.join(", ")} ${what}.`);
}

/** Drafting, verification and the rest, beside each other. */
function times(timings) {
  const [round, draft, verify] = ["round_ns", "draft_ns", "verify_ns"].map((name) => Number(timings[name] ?? 0));
  const parts = [["draft", draft], ["verify", verify], ["rest", Math.max(round - draft - verify, 0)]];
  let x = 0;
  const bars = parts.map(([name, ns]) => {
    const width = round ? (100 * ns) / round : 0;
    const bar = svg("rect", { class: `part ${name}`, x, y: 0, width, height: 8 });
    x += width;
    return bar;
  });
  const words = parts.map(([name, ns]) => `${name} ${milliseconds(ns)}`).join(", ");
  return h(
    "p",
    { class: "times" },
    svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, bars),
    words,
  );
}

/** The protocol counts parents from 1, and 0 is the root; here -1 is. */
function parents(round) {
  return round.tree?.parents?.map((parent) => parent - 1) ?? [];
}

/** Every node with its place in the drawing, its rank among its siblings, and what came of it. */
function nodesOf(round) {
  const above = parents(round);
  const kept = new Set(round.accepted);
  const nodes = above.map((parent, number) => ({
    number,
    parent,
    confidence: round.tree.confidences[number],
    text: round.node_texts[number],
    kept: kept.has(number),
    children: [],
  }));
  for (const node of nodes) {
    node.depth = node.parent < 0 ? 1 : nodes[node.parent].depth + 1;
    if (node.parent >= 0) nodes[node.parent].children.push(node);
  }
  for (const siblings of [nodes.filter((node) => node.parent < 0), ...nodes.map((node) => node.children)]) {
    const ranked = [...siblings].sort((one, other) => other.confidence - one.confidence);
    ranked.forEach((node, place) => (node.rank = place + 1));
    siblings.sort((one, other) => one.rank - other.rank);
  }
  place(nodes);
  return nodes;
}

/** Leaves get a row each, from the top; others stand beside their first child. */
function place(nodes) {
  let rows = 0;
  const settle = (node) => {
    node.children.forEach(settle);
    node.row = node.children.length ? node.children[0].row : rows++;
  };
  nodes.filter((node) => node.parent < 0).sort((one, other) => one.rank - other.rank).forEach(settle);
}

function drawing(round, nodes) {
  const end = nodes[round.accepted.at(-1)];
  const added = { depth: (end?.depth ?? 0) + 1, row: Math.max(...nodes.map((node) => node.row)) + 1 };
  const width = right({ depth: Math.max(added.depth, ...nodes.map((node) => node.depth)) });
  const picture = svg(
    "svg",
    {
      class: "tree",
      role: "img",
      "aria-label": `Tree of ${nodes.length} nodes, of which ${round.accepted.length} were kept; the table has them all`,
      width,
      height: (added.row + 1) * ROW,
      viewBox: `0 0 ${width} ${(added.row + 1) * ROW}`,
    },
    nodes.map((node) => edge(nodes[node.parent], node, node.kept ? "kept" : "refused")),
    edge(end, added, "extra"),
    box({ depth: 0, row: 0 }, "root", "•", "the last token before"),
    nodes.map((node) => box(node, node.kept ? "kept" : "refused", name(node), title(node))),
    box(added, "extra", `+ ${extra(round)}`, round.run_text ? "the target's own tokens" : "the target's own token"),
  );
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Tree of round ${round.round + 1}` }, picture);
}

function edge(from, to, kind) {
  const start = from ?? { depth: 0, row: 0 };
  const half = (right(start) + left(to)) / 2;
  const path = `M${right(start)},${middle(start)} C${half},${middle(start)} ${half},${middle(to)} ${left(to)},${middle(to)}`;
  return svg("path", { class: `edge ${kind}`, d: path });
}

function box(node, kind, text, said) {
  const [x, y, width] = [left(node), middle(node) - BOX.height / 2, right(node) - left(node)];
  return svg(
    "g",
    { class: `node ${kind}` },
    svg("title", {}, said),
    svg("rect", { x: x + 1, y, width: width - 2, height: BOX.height, rx: 4 }),
    svg("text", { x: x + 6, y: middle(node) + 4 }, text),
  );
}

function left(node) {
  return node.depth ? ROOT + GAP + (node.depth - 1) * LEVEL : 0;
}

function right(node) {
  return left(node) + (node.depth ? BOX.width : ROOT);
}

function middle(node) {
  return node.row * ROW + ROW / 2;
}

/** What a node is called: its text where it may be shown, else its rank. */
function name(node) {
  const mark = node.kept ? "✓ " : "";
  return `${mark}${node.text === undefined ? `rank ${node.rank}` : clipped(visible(node.text))} ${node.confidence.toFixed(2)}`;
}

function title(node) {
  return `node ${node.number + 1}, rank ${node.rank}, confidence ${number(node.confidence)}, ${node.kept ? "kept" : "refused"}`;
}

function extra(round) {
  const text = round.extra_text + (round.run_text ?? "");
  return text ? clipped(visible(text)) : "its own";
}

/** White space that can be seen. */
function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "→") || "∅";
}

function clipped(text) {
  return text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS - 1)}…` : text;
}

function asTable(nodes) {
  const columns = [
    { title: "Node", head: true, number: true, text: (node) => String(node.number + 1) },
    { title: "After", number: true, text: (node) => (node.parent < 0 ? "root" : String(node.parent + 1)) },
    { title: "Depth", number: true, text: (node) => String(node.depth) },
    { title: "Rank", number: true, text: (node) => String(node.rank) },
    { title: "Confidence", number: true, text: (node) => number(node.confidence) },
    { title: "Kept", text: (node) => (node.kept ? "yes" : "no") },
  ];
  if (nodes[0].text !== undefined) columns.splice(4, 0, { title: "Text", text: (node) => visible(node.text) });
  const table = new Table({ caption: "Nodes of the tree", columns, hidden: true });
  table.show(nodes, (node) => node.number);
  return h("details", {}, h("summary", {}, "As a table"), table.element);
}
