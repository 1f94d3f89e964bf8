// One guest's page: what is wrong with it first, what can be done to it, and everything that is known of it in tabs.

import { About } from "./about.js";
import { Actions } from "./actions.js";
import { ask, every, vmPath } from "./api.js";
import { standingBadge, stateBadge } from "./badges.js";
import { Chart, MemoryMap } from "./chart.js";
import { Console } from "./console.js";
import { ConsoleLog } from "./consolelog.js";
import { wordsOf } from "./list.js";
import { Events, KernelLog, Processes } from "./tables.js";
import { Tabs } from "./tabs.js";
import { guest, long, make, put, say, shown } from "./text.js";
import { Truth } from "./truth.js";
import { bytes, clock, state, time } from "./words.js";

const WARN_MOST = 6;
// What the daemon tells of a guest that runs is younger than this.
const TOLD_SECONDS = 15;

export class Detail {
  /** `shared` has `guests`, `events`, `session`; `tab` is the one to begin with; `went(tab)` is called when it changes. */
  constructor(name, tab, shared, went) {
    this.name = name;
    this.shared = shared;
    this.pollers = [];
    this.tabPoller = null;
    this.looked = null;
    this.acts = shared.session.role !== "ReadOnly";
    this.truth = new Truth();
    this.map = new MemoryMap();
    this.chart = new Chart();
    this.memoryNote = make("p", { class: "empty" }, "Nothing is known of its memory yet.");
    this.memoryWords = make("dl", { class: "pairs" });
    this.memory = make("div", { hidden: true }, make("h2", {}, "Where it lies"), this.map.node, make("h2", {}, "How much it uses"), this.chart.node, this.memoryWords);
    this.processes = new Processes();
    this.dmesg = new KernelLog();
    this.logs = new ConsoleLog();
    this.console = new Console(name, this.acts, () => this.live());
    this.events = new Events(name);
    this.about = new About();
    this.tabs = new Tabs(`About ${shown(name)}`, [
      { id: "truth", word: "Truth", panel: this.truth.node },
      { id: "memory", word: "Memory", panel: make("div", {}, this.memoryNote, this.memory) },
      { id: "processes", word: "Processes", panel: this.processes.node },
      { id: "dmesg", word: "Kernel log", panel: this.dmesg.node },
      { id: "logs", word: "Console log", panel: this.logs.node },
      { id: "console", word: "Console", panel: this.console.node },
      { id: "events", word: "Events", panel: this.events.node },
      { id: "about", word: "About", panel: this.about.node },
    ], (id) => { this.show(id); went(id); });
    this.badges = make("span", { class: "badges" });
    this.facts = make("p", { class: "facts" });
    this.warning = make("div", { class: "warning", hidden: true });
    this.seenAt = make("p", { class: "how", id: "seen" });
    this.problem = make("p", { class: "note warn-text", role: "status", hidden: true });
    this.heading = make("h1", { tabindex: "-1", id: "guest-head" }, guest(name));
    this.actions = this.acts ? new Actions(name, () => this.limits()) : null;
    this.missing = make("p", { class: "empty", hidden: true });
    this.rest = make("div", {}, this.warning, this.actions?.node, this.seenAt, this.problem, this.tabs.node);
    this.node = make("section", { class: "page detail", "aria-labelledby": "guest-head" },
      make("p", { class: "back" }, make("a", { href: "#/" }, "\u2190 All guests")),
      make("div", { class: "bar" }, this.heading, this.badges, this.facts), this.missing, this.rest);
    this.show(tab);
    this.pollers.push(every(4, () => this.look()));
    this.update();
  }

  vm() {
    return this.shared.guests.get(this.name);
  }

  live() {
    return state(this.vm()?.state).live;
  }

  async limits() {
    const inspect = await ask("GET", vmPath(this.name, "/inspect")).catch(() => null);
    return inspect?.limits ?? null;
  }

  show(id) {
    this.tab = this.tabs.list.some((one) => one.id === id) ? id : "truth";
    this.tabs.show(this.tab);
    this.tabPoller?.stop();
    this.tabPoller = null;
    this.problem.hidden = true;
    this.console.hide();
    if (this.tab === "events") this.shared.events.start();
    else this.shared.events.stop();
    const reads = {
      processes: [4, "/processes", (answer) => this.processes.update(answer)],
      dmesg: [4, "/dmesg", (answer) => this.dmesg.update(answer)],
      logs: [3, "/logs", (answer) => this.logs.update(answer)],
      about: [10, "/inspect", (answer) => { this.about.answer(answer); this.update(); }],
    }[this.tab];
    if (reads) {
      const [seconds, path, take] = reads;
      this.tabPoller = every(seconds, () => this.read(path, take));
    }
    if (this.tab === "console") this.console.show();
    if (this.vm()) this.update();
  }

  async read(path, take) {
    if (path !== "/logs" && this.vm() && !this.live()) {
      this.tellProblem("The guest does not run, so this is from when it did.");
      return;
    }
    try {
      take(await ask("GET", vmPath(this.name, path)));
      this.problem.hidden = true;
    } catch (error) {
      this.tellProblem(`There is no answer: ${shown(error.words?.() ?? error.message)}`);
    }
  }

  tellProblem(text) {
    this.problem.hidden = false;
    say(this.problem, text);
  }

  /**
   * Looks into the guest, if nobody else has lately: what the daemon's own observer sees of all guests comes by itself, and
   * a second look costs the host as much again.
   */
  async look() {
    if (!this.live() || this.told()) return;
    try {
      const truth = await ask("GET", vmPath(this.name, "/truth"));
      this.looked = { ...truth, at: Date.now() / 1000, failed: null };
      if (truth.memory) {
        this.shared.guests.sample(this.name, { resident: truth.memory.resident_bytes, set: truth.working_set, limit: truth.memory.paging?.limit_bytes ?? null });
      }
    } catch (error) {
      this.looked = { ...this.looked, failed: error.words?.() ?? error.message };
    }
    this.update();
  }

  /** Whether the daemon says by itself, and of now, what is seen. */
  told() {
    return Boolean(this.vm()?.insight?.memory) && this.shared.guests.silence(this.name) < TOLD_SECONDS;
  }

  /** What is seen of the guest, from whoever saw it last. */
  seen() {
    const insight = this.vm()?.insight ?? {};
    return this.live() && !this.told() && this.looked?.rows ? this.looked : insight;
  }

  update() {
    const vm = this.vm();
    this.missing.hidden = vm !== null;
    this.rest.hidden = vm === null;
    if (vm === null) {
      say(this.missing, this.shared.guests.whole ? `There is no guest \u201c${shown(this.name)}\u201d. It may have been removed.` : "Waiting for the daemon's list.");
      put(this.badges);
      say(this.facts, "");
      return;
    }
    const badges = [standingBadge(vm), stateBadge(vm)].filter(Boolean);
    if (this.badges.textContent !== badges.map((one) => one.textContent).join("")) put(this.badges, badges);
    const now = state(vm.state).live
      ? [`up ${time(vm.uptime_seconds)}`, Number.isFinite(vm.memory_resident_bytes) ? `${bytes(vm.memory_resident_bytes)} resident of ${bytes(vm.memory_given_bytes)}` : ""]
      : [vm.end ? shown(vm.end.message) : ""];
    say(this.facts, [state(vm.state).means, ...now].filter(Boolean).join(" \u00b7 "));
    this.actions?.update(vm);
    const seen = this.seen();
    this.warn(vm, seen);
    say(this.seenAt, seenWords(seen, this.told() ? null : this.looked?.failed, this.live()));
    if (this.tab === "truth") this.truth.update(seen);
    if (this.tab === "memory") this.showMemory(vm, seen);
    if (this.tab === "events") this.events.update(this.shared.events.list(this.name));
    if (this.tab === "about") this.about.update(vm);
  }

  warn(vm, seen) {
    const bad = (seen.rows ?? []).filter((row) => row.verdict === "contradicts");
    const lines = bad.slice(0, WARN_MOST).map((row) => make("li", {},
      make("strong", {}, guest(row.subject)), ": ",
      ...[["claims", row.claim], ["its kernel says", row.kernel], ["the host knows", row.truth]].filter(([, text]) => text !== null && text !== undefined)
        .flatMap(([who, text], index) => [index > 0 ? ", " : "", make("span", { class: "who-says" }, `${who} `), long(text, 100)]),
      row.meaning ? make("p", { class: "meaning" }, long(row.meaning, 240)) : null));
    if (bad.length > WARN_MOST) lines.push(make("li", {}, `${bad.length - WARN_MOST} more below`));
    if (vm.trouble) lines.push(make("li", {}, make("strong", {}, "Trouble"), ": ", long(wordsOf(vm.trouble), 240)));
    const waits = seen.memory?.paging?.waits;
    if (vm.state === "waiting") lines.push(make("li", {}, make("strong", {}, "It waits for room"), ": ", long(waits ?? "there is no room for pages of its memory", 240)));
    const key = lines.map((line) => line.textContent).join("\n");
    if (this.warned === key) return;
    this.warned = key;
    this.warning.hidden = lines.length === 0;
    put(this.warning, make("h2", {}, bad.length > 0 ? `\u2716 ${shown(this.name)} CONTRADICTS what is known of it` : "Needs somebody"), make("ul", {}, ...lines));
  }

  showMemory(vm, seen) {
    const memory = this.live() ? seen.memory ?? null : null;
    this.memory.hidden = memory === null;
    this.memoryNote.hidden = memory !== null;
    say(this.memoryNote, this.live() ? "Nothing is known of its memory yet." : "It does not run, so it has no memory.");
    if (memory === null) return;
    this.map.update(memory, seen.working_set ?? null);
    this.chart.update(this.shared.guests.history(vm.name), memory.paging?.limit_bytes ?? null);
    const paging = memory.paging;
    const counters = new Map((paging?.counters ?? []).map((counter) => [counter.name, counter.value]));
    const pairs = [
      ["Given so far", `${bytes(memory.given_bytes)}; pages that were given back and taken again count again`],
      ["Given back so far", bytes(memory.given_back_bytes)],
      ...(paging ? [
        ["Store of pages", `${bytes(paging.store_memory_bytes)} of memory beside the guest's, of at most ${bytes(paging.store_memory_budget_bytes)}; ${bytes(paging.store_file_bytes)} on disk`],
        ["Pages moved", `${counters.get("page_outs") ?? 0} put away, ${counters.get("page_ins") ?? 0} brought back`],
        ["Bringing one back", paging.fault_in_median_us === null ? "was not needed yet" : `half in ${paging.fault_in_median_us} \u00b5s, 99 of 100 in ${paging.fault_in_p99_us} \u00b5s`],
      ] : [["Paging", "this host allows none"]]),
    ];
    put(this.memoryWords, pairs.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  }

  close() {
    for (const poller of this.pollers) poller.stop();
    this.tabPoller?.stop();
    this.console.close();
    this.shared.events.stop();
  }
}

function seenWords(seen, failed, live) {
  const at = seen.at ? clock(seen.at) : "";
  if (!live) return at ? `Seen last at ${at}, when it ran.` : "";
  if (failed) return `Not seen now: ${shown(failed)}.${at ? ` What is shown is from ${at}.` : ""}`;
  return at ? `Seen at ${at}.` : "Looking.";
}
