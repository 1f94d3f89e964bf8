// One guest's table: what it claims, what its kernel's books say, what the host knows, and what came of it.

import { verdictBadge } from "./badges.js";
import { guest, long, make, put, shown } from "./text.js";
import { bytes, count, verdict } from "./words.js";

export class Truth {
  constructor() {
    this.body = make("tbody", {});
    this.opened = new Set();
    this.said = null;
    this.foot = make("dl", { class: "pairs" });
    this.note = make("p", { class: "empty" }, "Not looked at yet.");
    this.table = make("table", { class: "truth", hidden: true },
      make("caption", { class: "unseen" }, "Claim, kernel and truth, what contradicts first"),
      make("thead", {}, make("tr", {}, ...["Verdict", "Subject", "Claim", "Kernel", "Truth"].map((head) => make("th", { scope: "col" }, head)))), this.body);
    this.node = make("div", {}, this.table, this.note, this.foot);
  }

  /** What is seen: the daemon's insight, or an answer of `mother truth`. */
  update({ rows, why_not: notSeen, kernel, cost }) {
    const whyNot = notSeen ?? kernel?.why_not ?? null;
    this.show(rows ?? [], whyNot);
    this.showKernel(kernel ?? null, cost);
  }

  show(rows, whyNot) {
    this.table.hidden = rows.length === 0;
    this.note.hidden = rows.length > 0 && !whyNot;
    const note = whyNot ? `Not seen: ${shown(whyNot)}` : "Not looked at yet.";
    if (this.note.textContent !== note) put(this.note, note);
    const sorted = rows.map((row, index) => ({ row, index })).sort((a, b) => verdict(a.row.verdict).rank - verdict(b.row.verdict).rank || a.index - b.index);
    const said = JSON.stringify(sorted.map(({ row }) => row));
    if (said === this.said) return;
    this.said = said;
    const focused = document.activeElement?.closest?.("details.why")?.dataset.key ?? null;
    put(this.body, sorted.map(({ row }) => this.line(row)));
    if (focused !== null) [...this.body.querySelectorAll("details.why")].find((one) => one.dataset.key === focused)?.querySelector("summary").focus({ preventScroll: true });
  }

  line(row) {
    const word = (text, label) => make("td", { class: "word", "data-label": label }, text === null || text === undefined ? make("span", { class: "none" }, "\u2013", make("span", { class: "unseen" }, "nothing")) : long(text));
    const key = `${row.rule} ${row.subject}`;
    const facts = [
      ["Rule", guest(row.rule)], ["Compared", guest(row.method)], ["Difference", row.difference ? guest(row.difference) : null],
      ["Confidence", row.confidence ? shown(row.confidence) : null],
      ["Seen in", Number.isFinite(row.readings) ? count(row.readings, "reading") : null],
      ["Oldest word", Number.isFinite(row.age_ms) ? `${(row.age_ms / 1000).toFixed(1)} s old` : null],
    ].filter(([, value]) => value !== null);
    const why = make("details", { class: "why", toggle: () => (why.open ? this.opened.add(key) : this.opened.delete(key)) },
      make("summary", {}, "Why"), make("dl", { class: "pairs" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
    why.dataset.key = key;
    why.open = this.opened.has(key);
    return make("tr", { class: `verdict-${verdict(row.verdict).tone}` },
      make("td", { class: "verdict-cell" }, verdictBadge(row.verdict)),
      make("th", { scope: "row", class: "subject" }, guest(row.subject), row.meaning ? make("p", { class: "meaning" }, long(row.meaning, 200)) : null, row.rule ? why : null),
      word(row.claim, "Claim"), word(row.kernel, "Kernel"), word(row.truth, "Truth"));
  }

  showKernel(kernel, cost) {
    const pairs = [];
    const add = (name, value) => { if (value) pairs.push(make("dt", {}, name), make("dd", {}, value)); };
    if (kernel) {
      add("Kernel", kernel.release ? guest(kernel.release) : "not known");
      add("Build-id", kernel.build_id ? guest(kernel.build_id) : null);
      add("Known by", kernel.rung ? shown(kernel.rung) : null);
      add("Disputed", kernel.disputes?.length ? long(kernel.disputes.join("; ")) : null);
      add("Loaded", kernel.loaded?.release ? guest(kernel.loaded.release) : kernel.loaded?.why_not ? guest(kernel.loaded.why_not) : null);
    }
    add("This look cost", cost?.look ? `${(cost.look.time_us / 1000).toFixed(1)} ms, ${bytes(cost.look.bytes)} read` : null);
    const said = pairs.map((one) => one.textContent).join("\n");
    if (said !== this.foot.dataset.said) put(this.foot, pairs);
    this.foot.dataset.said = said;
  }
}
