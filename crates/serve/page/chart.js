// Pictures of memory: how much is used over time, and where it lies. Each says the same in words and numbers beside it.

import { draw, make, put } from "./text.js";
import { bytes, percent, time } from "./words.js";

const WIDTH = 600;
const HEIGHT = 150;

/** As high as a line of text: what a guest used of its memory lately, and what the host held of it. */
export function sparkline(history) {
  const points = history.slice(-150);
  if (points.length < 2) return null;
  const most = Math.max(...points.map((point) => Math.max(point.resident, point.set ?? 0))) || 1;
  const from = points[0].at;
  const width = points.at(-1).at - from || 1;
  const line = (value) => points.filter((point) => value(point) !== null)
    .map((point) => `${(((point.at - from) / width) * 118 + 1).toFixed(1)},${(19 - (value(point) / most) * 17).toFixed(1)}`).join(" ");
  const spoken = `resident memory and working set in the last ${time(width)}, at most ${bytes(most)}`;
  return draw("svg", { viewBox: "0 0 120 20", class: "spark", role: "img", "aria-label": spoken }, draw("title", {}, spoken),
    draw("polyline", { points: line((point) => point.resident), class: "line-resident dash" }),
    draw("polyline", { points: line((point) => point.set), class: "line-set" }));
}

/** The bar of places as small as a line of text. */
export function smallMap(memory) {
  if (!memory?.configured_bytes) return null;
  const lie = places(memory);
  let x = 0;
  const parts = lie.map((place) => {
    const width = (place.bytes / memory.configured_bytes) * 120;
    x += width;
    return draw("rect", { x: x - width, y: 0, width, height: 10, class: `at-${place.look}` });
  });
  const spoken = lie.filter((place) => place.bytes > 0).map((place) => `${place.word} ${bytes(place.bytes)}`).join(", ");
  return draw("svg", { viewBox: "0 0 120 10", preserveAspectRatio: "none", class: "places-small", role: "img", "aria-label": spoken }, draw("title", {}, spoken), ...parts);
}

/** Working set and resident memory as long as this page has watched. */
export class Chart {
  constructor() {
    this.picture = make("div", { class: "chart" });
    this.words = make("p", { class: "chart-words" });
    this.node = make("figure", {}, this.picture,
      make("figcaption", {}, this.words,
        make("ul", { class: "legend" },
          make("li", {}, key("line-set"), "working set, with one standard error"),
          make("li", {}, key("line-resident dash"), "resident: what the host holds in memory"),
          make("li", {}, key("line-limit dots"), "limit, if there is one"))));
  }

  update(history, limit) {
    const points = history;
    const sets = points.filter((point) => point.set !== null);
    if (sets.length === 0) {
      put(this.picture);
      this.words.textContent = "Nothing is known of the working set yet. Every four seconds a sample is taken.";
      return;
    }
    const now = sets.at(-1);
    const values = sets.map((point) => point.set);
    const from = points[0].at;
    const span = Math.max(points.at(-1).at - from, 1);
    this.words.textContent = `Working set ${bytes(now.set)} \u00b1 ${bytes(now.error)} now; between ${bytes(Math.min(...values))} and ${bytes(Math.max(...values))} in the ${time(span)} that this page has watched.`;
    if (sets.length < 2) {
      put(this.picture);
      return;
    }
    const most = Math.max(...points.map((point) => Math.max(point.resident ?? 0, (point.set ?? 0) + (point.error ?? 0))), limit ?? 0) * 1.08 || 1;
    const x = (at) => ((at - from) / span) * WIDTH;
    const y = (value) => HEIGHT - (Math.max(0, value) / most) * HEIGHT;
    const line = (list, value) => list.map((point) => `${x(point.at).toFixed(1)},${y(value(point)).toFixed(1)}`).join(" ");
    const band = `${line(sets, (point) => point.set + point.error)} ${line([...sets].reverse(), (point) => point.set - point.error)}`;
    const scale = [0.5, 1].map((part) => draw("line", { x1: 0, x2: WIDTH, y1: y((most / 1.08) * part), y2: y((most / 1.08) * part), class: "grid" }));
    put(this.picture,
      make("div", { class: "axis", "aria-hidden": "true" }, make("span", {}, bytes(most / 1.08)), make("span", {}, bytes(most / 2.16)), make("span", {}, "0")),
      draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": this.words.textContent },
        ...scale,
        draw("polygon", { points: band, class: "band" }),
        draw("polyline", { points: line(points, (point) => point.resident), class: "line-resident dash" }),
        limit ? draw("line", { x1: 0, x2: WIDTH, y1: y(limit), y2: y(limit), class: "line-limit dots" }) : null,
        draw("polyline", { points: line(sets, (point) => point.set), class: "line-set" })),
      make("div", { class: "axis-time", "aria-hidden": "true" }, make("span", {}, `${time(span)} ago`), make("span", {}, "now")));
  }
}

function key(look) {
  return draw("svg", { viewBox: "0 0 24 10", class: "key", "aria-hidden": "true" }, draw("line", { x1: 1, x2: 23, y1: 5, y2: 5, class: look }));
}

/** Where each page of a guest's memory lies, worst for speed last. */
export const PLACES = [
  { id: "resident", word: "resident", means: "in the host's memory", look: "resident" },
  { id: "compressed_in_memory", word: "compressed", means: "packed in the host's memory; takes about half", look: "compressed" },
  { id: "same", word: "shared or repeated", means: "the same as another page, or one word again and again: a line in a table", look: "same" },
  { id: "in_file", word: "on disk", means: "in the page file", look: "disk" },
  { id: "zeros", word: "zeros", means: "nothing but zeros: kept nowhere", look: "zeros" },
  { id: "untouched", word: "never touched, or given back", means: "the host holds nothing for it", look: "untouched" },
];

/** Bytes by place, in the order of `PLACES`. Together they are what the guest believes to have. */
export function places(memory) {
  const away = new Map((memory.paged_out ?? []).map((counter) => [counter.name, counter.value]));
  const take = (name) => {
    const value = away.get(name) ?? 0;
    away.delete(name);
    return value;
  };
  const lies = {
    resident: memory.resident_bytes,
    compressed_in_memory: take("compressed_in_memory"),
    same: take("same_as_another") + take("repeating"),
    in_file: take("in_file"),
    zeros: take("zeros"),
  };
  const known = PLACES.map((place) => ({ ...place, bytes: lies[place.id] ?? 0 }));
  // A place that a newer daemon knows of is shown under its own name.
  const others = [...away].map(([name, value]) => ({ id: name, word: name.replaceAll("_", " "), means: "", look: "other", bytes: value }));
  const taken = [...known, ...others].reduce((sum, place) => sum + place.bytes, 0);
  known.at(-1).bytes = Math.max(0, memory.configured_bytes - taken);
  return [...known.slice(0, -1), ...others, known.at(-1)];
}

/** The bar of places, with the working set and the limit on the same scale. */
export class MemoryMap {
  constructor() {
    this.bar = make("div", { class: "map" });
    this.rows = make("tbody", {});
    this.node = make("div", {},
      this.bar,
      make("table", { class: "places" },
        make("caption", { class: "unseen" }, "Where the guest's memory lies"),
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Where"), make("th", { scope: "col", class: "number" }, "How much"), make("th", { scope: "col", class: "number" }, "Of all"), make("th", { scope: "col" }, "Which means"))),
        this.rows));
  }

  update(memory, set) {
    const all = memory.configured_bytes || 1;
    const lie = places(memory);
    const limit = memory.paging?.limit_bytes ?? null;
    let x = 0;
    const parts = lie.filter((place) => place.bytes > 0).map((place) => {
      const width = (place.bytes / all) * 1000;
      const part = draw("g", {}, draw("title", {}, `${place.word}: ${bytes(place.bytes)}`), ...area(place.look, x, width));
      x += width;
      return part;
    });
    const spoken = lie.map((place) => `${place.word} ${bytes(place.bytes)}`).join(", ");
    put(this.bar,
      draw("svg", { viewBox: "0 0 1000 40", preserveAspectRatio: "none", role: "img", "aria-label": `Of ${bytes(all)}: ${spoken}` }, patterns(), ...parts,
        limit ? draw("line", { x1: (limit / all) * 1000, x2: (limit / all) * 1000, y1: 0, y2: 40, class: "limit-mark" }) : null),
      set ? draw("svg", { viewBox: "0 0 1000 8", preserveAspectRatio: "none", class: "under", "aria-hidden": "true" },
        draw("rect", { x: 0, y: 2, height: 4, width: Math.min(1000, (set.value / all) * 1000), class: "set-mark" })) : null,
      make("p", { class: "map-words" },
        set ? make("span", {}, make("span", { class: "swatch-set", "aria-hidden": "true" }), `working set ${bytes(set.value)} \u00b1 ${bytes(set.error)}`) : "working set not known yet",
        limit ? make("span", {}, make("span", { class: "swatch-limit", "aria-hidden": "true" }), `limit ${bytes(limit)}`) : make("span", {}, "no limit"),
        make("span", {}, `${bytes(all)} is what the guest believes to have`)));
    put(this.rows, lie.map((place) => make("tr", { class: place.bytes === 0 ? "nil" : "" },
      make("th", { scope: "row" }, draw("svg", { viewBox: "0 0 14 14", class: "swatch", "aria-hidden": "true" }, ...area(place.look, 0, 14, 14)), place.word),
      make("td", { class: "number" }, bytes(place.bytes)), make("td", { class: "number" }, percent(place.bytes, all)), make("td", { class: "means" }, place.means))));
  }
}

// Colours are told apart by whoever sees colours; stripes and dots by everybody.
function area(look, x, width, height = 40) {
  const box = { x, y: 0, width, height };
  const over = { compressed: "stripes", same: "dots", disk: "bars", zeros: "rare" }[look];
  return [draw("rect", { ...box, class: `at-${look}` }), over ? draw("rect", { ...box, fill: `url(#${over})` }) : null];
}

function patterns() {
  const pattern = (id, size, ...marks) => draw("pattern", { id, width: size, height: size, patternUnits: "userSpaceOnUse" }, ...marks);
  return draw("defs", {},
    pattern("stripes", 8, draw("path", { d: "M0 8L8 0", class: "ink" })),
    pattern("dots", 7, draw("circle", { cx: 3, cy: 3, r: 1.4, class: "ink-fill" })),
    pattern("bars", 6, draw("path", { d: "M0 3H6", class: "ink" })),
    pattern("rare", 14, draw("circle", { cx: 7, cy: 7, r: 1.2, class: "ink-fill" })));
}
