// All guests: what each claims, what its kernel's books say and what the host knows, contradictions first.

import { contradicts, rank } from "./guests.js";
import { standingBadge, stateBadge, verdictBadge } from "./badges.js";
import { ask, every } from "./api.js";
import { guest, long, make, put, say, shown } from "./text.js";
import { bytes, count, state, time, verdict } from "./words.js";
import { smallMap, sparkline } from "./chart.js";

// More rows of one guest would push the next guest off the screen; the guest's own page has all.
const ROWS_MOST = 3;

export class List {
  constructor(guests) {
    this.guests = guests;
    this.bodies = new Map();
    this.wanted = "";
    this.summary = make("p", { class: "summary", id: "summary" });
    this.filter = make("input", {
      type: "search", id: "filter", autocomplete: "off", spellcheck: "false", placeholder: "name, label or state",
      input: () => { this.wanted = this.filter.value.trim().toLowerCase(); this.update(); },
    });
    this.host = make("p", { class: "host" });
    this.poller = every(15, async () => say(this.host, hostWords(await ask("GET", "/v1/host"))));
    this.table = make("table", { class: "guests" },
      make("caption", { class: "unseen" }, "All guests, contradictions first"),
      make("thead", {}, make("tr", {}, ...["Guest", "Subject", "Claim", "Kernel", "Truth", "Verdict"].map((head) => make("th", { scope: "col" }, head)))));
    this.nothing = make("p", { class: "empty", hidden: true });
    this.node = make("section", { class: "page", "aria-labelledby": "list-head" },
      make("div", { class: "bar" },
        make("h1", { id: "list-head" }, "Guests"), this.summary,
        make("label", { class: "find" }, "Find ", this.filter)),
      this.host, this.table, this.nothing);
    this.update();
  }

  close() {
    this.poller.stop();
  }

  update() {
    const all = this.guests.sorted();
    say(this.summary, this.guests.whole ? summary(all) : "");
    const chosen = all.filter((vm) => matches(vm, this.wanted));
    const names = new Set(chosen.map((vm) => vm.name));
    for (const [name, body] of this.bodies) {
      if (names.has(name)) continue;
      body.node.remove();
      this.bodies.delete(name);
    }
    const focused = document.activeElement;
    let before = this.table.tHead;
    for (const vm of chosen) {
      let body = this.bodies.get(vm.name);
      if (!body) {
        body = new Body(vm.name, this.guests);
        this.bodies.set(vm.name, body);
      }
      body.update(vm);
      if (before.nextElementSibling !== body.node) before.after(body.node);
      before = body.node;
    }
    // An element that is moved loses the focus; whoever is on it stays on it.
    if (focused !== document.activeElement && this.table.contains(focused)) focused.focus({ preventScroll: true });
    this.table.hidden = chosen.length === 0;
    this.nothing.hidden = chosen.length > 0;
    if (chosen.length === 0) {
      say(this.nothing, !this.guests.whole ? "Waiting for the daemon's list."
        : all.length === 0 ? "There are no guests. `mother run -d --name web debian` starts one."
          : `No guest matches \u201c${this.wanted}\u201d.`);
    }
  }
}

function hostWords(host) {
  if (!host?.memory_bytes) return "";
  const pressed = (host.pressure ?? []).filter((one) => one.who === "some" && one.share_of_10s >= 0.05).map((one) => `for ${shown(one.what)} ${Math.round(one.share_of_10s * 100)}\u00a0%`);
  return [
    `${shown(host.name ?? "this host")}: ${bytes(host.memory_available_bytes)} of ${bytes(host.memory_bytes)} available`,
    host.guests ? `guests believe to have ${bytes(host.guests.believed_bytes)}, ${bytes(host.guests.resident_bytes)} of it resident` : "",
    shown(host.room?.words ?? ""),
    pressed.length > 0 ? `waited ${pressed.join(", ")} of the last 10 s` : "",
  ].filter(Boolean).join(" \u00b7 ");
}

function matches(vm, wanted) {
  if (wanted === "") return true;
  const labels = Object.entries(vm.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  return [vm.name, vm.state, vm.insight?.standing ?? "", ...labels].some((text) => text.toLowerCase().includes(wanted));
}

function summary(vms) {
  const how = [
    [vms.filter(contradicts).length, (n) => (n === 1 ? "1 CONTRADICTS" : `${n} CONTRADICT`)],
    [vms.filter((vm) => rank(vm) === 1).length, (n) => `${n} in trouble`],
    [vms.filter((vm) => rank(vm) === 2).length, (n) => `${n} BLIND`],
    [vms.filter((vm) => rank(vm) === 3 || rank(vm) === 4).length, (n) => `${n} fine`],
    [vms.filter((vm) => rank(vm) === 5).length, (n) => `${n} not running`],
  ];
  return [count(vms.length, "guest"), ...how.filter(([n]) => n > 0).map(([n, words]) => words(n))].join(" \u00b7 ");
}

/** One guest's lines of the table. They stay the same elements as long as they say the same, so focus and selection stay. */
class Body {
  constructor(name, guests) {
    this.name = name;
    this.guests = guests;
    this.vm = null;
    this.said = null;
    this.link = make("a", { class: "name", href: `#/vm/${encodeURIComponent(name)}` }, shown(name));
    this.badges = make("span", { class: "badges" });
    this.facts = make("p", { class: "facts" });
    this.curve = make("div", { class: "curve" });
    this.cell = make("th", { scope: "rowgroup", class: "who" }, make("div", { class: "head" }, this.link, this.badges), this.facts, this.curve);
    this.node = make("tbody", {});
    this.node.dataset.name = name;
  }

  update(vm) {
    // A host has many guests, and news come of one at a time.
    if (vm === this.vm) return;
    this.vm = vm;
    const live = state(vm.state).live;
    say(this.facts, facts(vm));
    if (live) put(this.curve, sparkline(this.guests.history(this.name)), smallMap(vm.insight?.memory));
    else put(this.curve);
    const rows = worstRows(vm);
    const said = JSON.stringify([vm.state, vm.trouble, vm.end?.message, vm.insight?.standing, vm.insight?.why_not, rows]);
    if (said === this.said) return;
    this.said = said;
    this.node.className = `guest-rows rank-${rank(vm)}`;
    put(this.badges, standingBadge(vm), stateBadge(vm));
    const lines = rows.map((row) => make("tr", {}, ...cells(row)));
    const notes = noteTexts(vm, rows.length);
    for (const note of notes) lines.push(make("tr", {}, make("td", { colspan: "5", class: "note" }, note)));
    const focused = document.activeElement;
    this.cell.rowSpan = lines.length;
    lines[0].prepend(this.cell);
    put(this.node, lines);
    if (focused !== document.activeElement && this.node.contains(focused)) focused.focus({ preventScroll: true });
  }
}

function facts(vm) {
  const parts = [];
  if (state(vm.state).live) {
    parts.push(`up ${time(vm.uptime_seconds)}`);
    if (Number.isFinite(vm.memory_resident_bytes)) {
      parts.push(`${bytes(vm.memory_resident_bytes)} resident of ${bytes(vm.memory_given_bytes)} `);
      if (vm.insight?.working_set) parts.push(`working set ${bytes(vm.insight.working_set.value)}`);
    } else if (vm.memory_given_bytes) parts.push(`${bytes(vm.memory_given_bytes)} given`);
    if (vm.vcpus) parts.push(count(vm.vcpus, "vCPU"));
    if (vm.engine) parts.push(vm.engine);
  }
  for (const [key, value] of Object.entries(vm.labels ?? {})) parts.push(shown(`${key}=${value}`).slice(0, 60));
  return parts.join(" \u00b7 ");
}

/** What is wrong with it, or, if nothing is, how its memory stands. */
function worstRows(vm) {
  const rows = vm.insight?.rows ?? [];
  const bad = rows.filter((row) => ["contradicts", "differs", "not-observable"].includes(row.verdict))
    .sort((a, b) => verdict(a.verdict).rank - verdict(b.verdict).rank);
  if (bad.length > 0) return bad.slice(0, ROWS_MOST);
  const memory = rows.find((row) => row.rule === "dead-memory" || row.subject === "memory used") ?? rows[0];
  return memory ? [memory] : [];
}

function cells(row) {
  const word = (text, label) => make("td", { class: "word", "data-label": label },
    text === null || text === undefined ? make("span", { class: "none" }, "\u2013", make("span", { class: "unseen" }, "nothing")) : long(text, 120));
  return [
    make("td", { class: "subject" }, guest(row.subject)),
    word(row.claim, "Claim"), word(row.kernel, "Kernel"), word(row.truth, "Truth"),
    make("td", { class: "verdict-cell" }, verdictBadge(row.verdict)),
  ];
}

function noteTexts(vm, shownRows) {
  const notes = [];
  if (vm.trouble) notes.push(make("span", { class: "bad-text" }, "Trouble: ", long(wordsOf(vm.trouble), 240)));
  if (vm.end) notes.push(make("span", {}, `${vm.state === "died" ? "Died" : "Ended"}: `, long(vm.end.message, 240)));
  if (vm.insight?.why_not) notes.push(make("span", {}, "Not seen: ", long(vm.insight.why_not, 240)));
  if (shownRows > 0) {
    const all = (vm.insight?.rows ?? []).filter((row) => row.verdict === "contradicts").length;
    if (all > ROWS_MOST) notes.push(`${all - ROWS_MOST} more that contradict`);
  } else if (notes.length === 0) {
    notes.push(state(vm.state).live ? "Not looked at yet." : vm.state === "declared" ? "Never started." : "Not running.");
  }
  return notes;
}

/** `trouble` is a text, or an object with one. */
export function wordsOf(trouble) {
  return typeof trouble === "string" ? trouble : trouble?.message ?? trouble?.text ?? JSON.stringify(trouble);
}
