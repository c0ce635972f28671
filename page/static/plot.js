// Lines over time or over requests, drawn by uPlot; what they say is also in a table beside each.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { h } from "./dom.js";

const DASHES = [[], [8, 4], [2, 3], [12, 3, 2, 3]];
const COLOURS = 6;
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

/** One plot. Told apart by colour and by dashes; `base` names the line that others are held against. */
export class Plot {
  constructor({ title, unit, base = null, time = true }) {
    this.title = title;
    this.unit = unit;
    this.base = base;
    this.time = time;
    this.drawing = h("div", { class: "drawing", role: "img" });
    this.legend = h("ul", { class: "legend" });
    this.element = h("figure", { class: "plot" }, h("figcaption", {}, title), this.drawing, this.legend);
    this.lines = [];
    this.again = () => this.#anew();
    DARK.addEventListener("change", this.again);
    this.watch = new ResizeObserver(() => this.plot?.setSize(this.#size()));
    this.watch.observe(this.drawing);
  }

  /** Let the plot show these lines: places on the x axis, and by name the values there (null: none). */
  show(places, lines) {
    const names = Object.keys(lines);
    this.data = [places, ...names.map((name) => lines[name])];
    if (names.join("\n") !== this.lines.join("\n")) {
      this.lines = names;
      this.#anew();
    } else {
      this.plot?.setData(this.data);
    }
    this.#describe();
  }

  close() {
    this.plot?.destroy();
    this.watch.disconnect();
    DARK.removeEventListener("change", this.again);
  }

  #anew() {
    this.plot?.destroy();
    if (!this.lines.length) {
      this.plot = null;
      return;
    }
    const ink = css("--ink");
    const places = this.time ? { values: (_, at) => at.map(clock) } : {};
    const axis = { stroke: ink, grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") } };
    const options = {
      ...this.#size(),
      legend: { show: false },
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: this.time }, y: { range: (_, __, most) => [0, Math.max(most * 1.1, 1)] } },
      axes: [{ ...axis, ...places }, { ...axis, size: 55 }],
      series: [{}, ...this.lines.map((name, place) => this.#series(name, place))],
    };
    this.plot = new uPlot(options, this.data, this.drawing);
    this.legend.replaceChildren(...this.lines.map((name, place) => this.#entry(name, place)));
  }

  #series(name, place) {
    const base = name === this.base;
    return {
      label: name,
      stroke: base ? css("--ink") : css(`--line-${place % COLOURS}`),
      dash: base ? [3, 3] : DASHES[Math.floor(place / COLOURS) % DASHES.length],
      width: 2,
      spanGaps: true,
      points: { show: this.data[0].length < 3 },
    };
  }

  #entry(name, place) {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.borderTopColor = name === this.base ? css("--ink") : css(`--line-${place % COLOURS}`);
    swatch.style.borderTopStyle = name === this.base || place >= COLOURS ? "dashed" : "solid";
    return h("li", {}, swatch, name);
  }

  #size() {
    return { width: Math.max(this.drawing.clientWidth, 200), height: 220 };
  }

  #describe() {
    const last = this.lines.map((name, place) => {
      const value = this.data[place + 1].findLast((one) => one !== null && one !== undefined);
      return value === undefined ? null : `${name} ${value.toPrecision(3)}`;
    });
    const said = last.filter(Boolean).join(", ") || "nothing yet";
    this.drawing.setAttribute("aria-label", `${this.title}. At the end: ${said} ${this.unit}. The table has the figures.`);
  }
}

function clock(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString("en-GB");
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
