// Numbers and times as people read them, and the words that several views share.

/** A number with as many digits as are worth reading; a dash where there is none. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 10 ** digits) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

export function percent(share) {
  return Number.isFinite(share) ? `${Math.round(100 * share)}%` : "–";
}

export function times(ratio) {
  return Number.isFinite(ratio) && ratio > 0 ? `${ratio.toFixed(2)}×` : "–";
}

export function milliseconds(ns) {
  return `${number(Number(ns) / 1e6)} ms`;
}

/** Unix time in milliseconds; the day only where it is not today. */
export function moment(ms) {
  const when = new Date(Number(ms));
  const time = when.toLocaleTimeString("en-GB");
  return when.toDateString() === new Date().toDateString() ? time : `${when.toISOString().slice(0, 10)} ${time}`;
}

export function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** "chain of 4", "tree 3 deep, 2 wide, 8 nodes". */
export function shapeInWords(shape) {
  if (!shape) return "no tree";
  const until = shape.least_confidence ? ` until ${percent(shape.least_confidence)}` : "";
  if (shape.branching === 1) return `chain of ${Math.min(shape.depth, shape.budget)}${until}`;
  return `tree ${shape.depth} deep, ${shape.branching} wide, ${shape.budget} nodes${until}`;
}

/** The last part of a name of the protocol: WORKER_HEALTH_NOT_SERVING is "not serving". */
export function enumInWords(value, prefix) {
  return value.replace(prefix, "").toLowerCase().replaceAll("_", " ");
}
