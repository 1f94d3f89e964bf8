// A table that is filled again and again and stays usable: rows keep their elements, so what is selected, opened or focused
// in it stays so.

import { long, make, put, shown } from "./text.js";
import { count } from "./words.js";

const ROWS_MOST = 600;

/**
 * `columns` are `{id, head, cell(row), sort?(row), number?, wide?}`; a cell is a text, which is a guest's, or a node.
 * `key(row)` says which rows are the same.
 */
export class Table {
  constructor(caption, columns, key, { sort = null, down = false, empty = "There is nothing." } = {}) {
    this.columns = columns;
    this.key = key;
    this.sortBy = sort;
    this.down = down;
    this.empty = empty;
    this.lines = new Map();
    this.rows = [];
    this.heads = new Map();
    const head = columns.map((column) => {
      const cell = make("th", { scope: "col", class: column.number ? "number" : "" });
      if (column.sort) {
        cell.append(make("button", { type: "button", class: "sort", click: () => this.turn(column.id) }, column.head, make("span", { class: "arrow", "aria-hidden": "true" })));
        this.heads.set(column.id, cell);
      } else cell.append(column.head);
      return cell;
    });
    this.body = make("tbody", {});
    this.note = make("p", { class: "empty" });
    this.scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      make("table", { class: "data" }, make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {}, ...head)), this.body));
    this.node = make("div", {}, this.scroll, this.note);
  }

  turn(id) {
    this.down = this.sortBy === id ? !this.down : true;
    this.sortBy = id;
    this.update(this.rows);
  }

  update(rows) {
    this.rows = rows;
    const column = this.columns.find((one) => one.id === this.sortBy);
    const sorted = column ? [...rows].sort((a, b) => compare(column.sort(a), column.sort(b)) * (this.down ? -1 : 1)) : rows;
    const shownRows = sorted.slice(0, ROWS_MOST);
    for (const [id, head] of this.heads) {
      if (id === this.sortBy) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const seen = new Set();
    const focused = document.activeElement;
    let before = null;
    for (const row of shownRows) {
      const key = this.key(row);
      if (seen.has(key)) continue;
      seen.add(key);
      const line = this.line(key, row);
      const place = before ? before.nextElementSibling : this.body.firstElementChild;
      if (place !== line) this.body.insertBefore(line, place);
      before = line;
    }
    for (const [key, { line }] of this.lines) {
      if (seen.has(key)) continue;
      line.remove();
      this.lines.delete(key);
    }
    if (focused !== document.activeElement && this.node.contains(focused)) focused.focus({ preventScroll: true });
    this.scroll.hidden = rows.length === 0;
    this.note.hidden = rows.length > 0 && rows.length <= ROWS_MOST;
    this.note.textContent = rows.length === 0 ? this.empty : `${count(rows.length - ROWS_MOST, "more row")} not shown. Search to see them.`;
  }

  line(key, row) {
    let known = this.lines.get(key);
    if (!known) {
      const cells = this.columns.map((column) => make("td", { class: [column.number ? "number" : "", column.wide ? "wide" : "", column.id].join(" ").trim() }));
      known = { line: make("tr", {}, ...cells), cells, texts: [] };
      this.lines.set(key, known);
    }
    this.columns.forEach((column, index) => {
      const value = column.cell(row);
      const text = value instanceof Node ? value.textContent : String(value ?? "");
      if (known.texts[index] === text) return;
      known.texts[index] = text;
      put(known.cells[index], value instanceof Node ? value : column.number ? shown(text) : long(text, column.most ?? 120));
    });
    return known.line;
  }
}

function compare(a, b) {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
