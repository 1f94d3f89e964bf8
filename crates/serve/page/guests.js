// What is known of all guests, kept up to date by the daemon's stream, and in which order they are shown.

import { ask, follow } from "./api.js";
import { state } from "./words.js";

// The page keeps this much of the past: half an hour at a sample every two seconds.
const HISTORY_MOST = 900;
const HISTORY_APART = 2;

/** How urgent a guest is: contradictions first, then what is broken, what cannot be seen, what is fine, what does not run. */
export function rank(vm) {
  const live = state(vm.state).live;
  if (vm.insight?.standing === "contradicts") return 0;
  if (vm.trouble || ["died", "unresponsive", "waiting"].includes(vm.state)) return 1;
  if (live && vm.insight?.standing === "blind") return 2;
  if (live && vm.insight?.worst === "differs") return 3;
  return live ? 4 : 5;
}

export function contradicts(vm) {
  return vm.insight?.standing === "contradicts";
}

/** `changed` is called, at most four times a second, after something changed; `linked` when the stream is up or down. */
export class Guests {
  constructor(changed, linked) {
    this.vms = new Map();
    this.histories = new Map();
    this.seenAt = new Map();
    this.whole = false;
    this.changed = changed;
    this.linked = linked;
    this.timer = null;
    this.stream = null;
  }

  start() {
    this.stream = follow("/v1/watch", (kind, data) => this.heard(kind, data), (link) => {
      // Those that went while nobody listened are not told of, so the list is asked for.
      if (link.up) this.reconcile();
      this.linked(link);
    });
    this.reconcile();
  }

  stop() {
    this.stream?.stop();
    clearTimeout(this.timer);
    this.timer = null;
  }

  heard(kind, data) {
    if (kind === "gone") {
      this.vms.delete(data.name);
      this.histories.delete(data.name);
    } else if (kind === "anew") {
      // This side was too slow, and some changes were left out.
      this.reconcile();
    } else if (kind === "vm" && typeof data?.name === "string") {
      this.take(data);
    }
    this.tell();
  }

  async reconcile() {
    const answer = await ask("GET", "/v1/vms").catch(() => null);
    if (!Array.isArray(answer?.vms)) return;
    const names = new Set(answer.vms.map((vm) => vm.name));
    for (const name of this.vms.keys()) if (!names.has(name)) this.vms.delete(name);
    for (const vm of answer.vms) this.take(vm);
    this.whole = true;
    this.tell();
  }

  take(vm) {
    const before = this.vms.get(vm.name);
    // Another start of the same name is another guest: what was is no part of its curve.
    if (before && before.started_at !== vm.started_at) this.histories.delete(vm.name);
    this.vms.set(vm.name, vm);
    if (!state(vm.state).live) return;
    const { at, working_set: set = null, memory } = vm.insight ?? {};
    // By this side's clock, which may not be the host's.
    if (at !== undefined && at !== before?.insight?.at) this.seenAt.set(vm.name, Date.now());
    if (Number.isFinite(vm.memory_resident_bytes)) this.sample(vm.name, { resident: vm.memory_resident_bytes, set, limit: memory?.paging?.limit_bytes ?? null });
  }

  /** Adds to a guest's past. `set` is an estimate as `mother truth` has it, or `null`. */
  sample(name, { resident, set, limit = null }) {
    const past = this.histories.get(name) ?? [];
    const at = Date.now() / 1000;
    const last = past.at(-1);
    const entry = { at, resident, set: set?.value ?? null, error: set?.error ?? null, limit };
    if (last && at - last.at < HISTORY_APART) {
      past[past.length - 1] = { ...entry, at: last.at, set: entry.set ?? last.set, error: entry.error ?? last.error, limit: limit ?? last.limit };
    } else {
      past.push(entry);
      if (past.length > HISTORY_MOST) past.shift();
    }
    this.histories.set(name, past);
  }

  tell() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.changed();
    }, 250);
  }

  get(name) {
    return this.vms.get(name) ?? null;
  }

  /** For how many seconds nobody has told what is seen of a guest. */
  silence(name) {
    return (Date.now() - (this.seenAt.get(name) ?? 0)) / 1000;
  }

  history(name) {
    return this.histories.get(name) ?? [];
  }

  /** All, the most urgent first. */
  sorted() {
    return [...this.vms.values()].sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
  }
}
