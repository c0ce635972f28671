// A table that is kept up to date without losing the focus of those who work in it.

import { h, say } from "./dom.js";

/**
 * Columns are { title, text(row), number?, head?, node?(row) }: text is kept up to date; a node is made once a row, and
 * may ask `row()` for what the row has become.
 */
export class Table {
  constructor({ caption, columns, empty = "nothing yet", hidden = false }) {
    this.columns = columns;
    this.rows = new Map();
    this.body = h("tbody");
    this.empty = h("p", { class: "empty" }, empty);
    const titles = columns.map((column) =>
      h("th", { scope: "col", class: column.number ? "number" : null }, column.title),
    );
    this.table = h(
      "table",
      {},
      h("caption", { class: hidden ? "unseen" : null }, caption),
      h("thead", {}, h("tr", {}, titles)),
      this.body,
    );
    // Wide tables scroll, also by the arrow keys.
    const scroll = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, this.table);
    this.element = h("div", { class: "table" }, scroll, this.empty);
    this.show([], () => "");
  }

  /** Let these be the rows, in this order; `key` tells which row is the same as before. */
  show(rows, key) {
    const before = this.rows;
    this.rows = new Map();
    for (const row of rows) {
      const name = String(key(row));
      const entry = before.get(name) ?? this.#made();
      before.delete(name);
      entry.row = row;
      this.#fill(entry);
      this.rows.set(name, entry);
    }
    for (const gone of before.values()) gone.line.remove();
    [...this.rows.values()].forEach(({ line }, place) => {
      if (this.body.children[place] !== line) this.body.insertBefore(line, this.body.children[place] ?? null);
    });
    this.empty.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
  }

  #made() {
    const cells = this.columns.map((column) =>
      h(column.head ? "th" : "td", { scope: column.head ? "row" : null, class: column.number ? "number" : null }),
    );
    return { line: h("tr", {}, cells), cells, filled: false, row: null };
  }

  #fill(entry) {
    this.columns.forEach((column, place) => {
      if (column.text) say(entry.cells[place], column.text(entry.row));
      else if (!entry.filled) entry.cells[place].append(column.node(() => entry.row));
    });
    entry.filled = true;
    for (const column of this.columns) column.update?.(entry.row, entry.cells[this.columns.indexOf(column)]);
  }
}
