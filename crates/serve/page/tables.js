// Processes, the kernel's log and events as tables that can be searched.

import { Table } from "./table.js";
import { guest, make, shown } from "./text.js";
import { bytes, clock, count, time } from "./words.js";

function search(label, changed) {
  const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false", input: () => changed(input.value.trim().toLowerCase()) });
  return make("label", { class: "find" }, `${label} `, input);
}

function check(label, on, changed) {
  const box = make("input", { type: "checkbox", change: () => changed(box.checked) });
  box.checked = on;
  return make("label", { class: "check" }, box, ` ${label}`);
}

/** What an observation says: the value, or `null`. */
function seen(observed) {
  return observed?.seen?.value ?? null;
}

function command(process) {
  const words = seen(process.command_line);
  if (Array.isArray(words) && words.length > 0) return words.join(" ");
  if (typeof words === "string" && words !== "") return words;
  return process.is_kernel ? `[${process.full_name ?? process.comm}]` : process.comm;
}

export class Processes {
  constructor() {
    this.all = [];
    this.wanted = "";
    this.kernels = false;
    this.how = make("p", { class: "how" });
    this.table = new Table("Processes in the guest", [
      { id: "pid", head: "PID", number: true, cell: (one) => String(one.pid), sort: (one) => one.pid },
      { id: "parent", head: "Parent", number: true, cell: (one) => String(one.parent_pid), sort: (one) => one.parent_pid },
      { id: "user", head: "User", number: true, cell: (one) => (one.uid === one.effective_uid ? String(one.uid) : `${one.uid} as ${one.effective_uid}`), sort: (one) => one.uid },
      { id: "state", head: "State", cell: (one) => one.state, sort: (one) => one.state },
      { id: "cpu", head: "CPU time", number: true, cell: (one) => time(one.cpu_time_ns / 1e9), sort: (one) => one.cpu_time_ns },
      { id: "resident", head: "Resident", number: true, cell: (one) => bytes(one.resident_bytes), sort: (one) => one.resident_bytes },
      { id: "comm", head: "Name", cell: (one) => one.comm, sort: (one) => one.comm, most: 40 },
      { id: "command", head: "Command line", cell: command, wide: true },
      { id: "container", head: "Container", cell: (one) => one.container?.id ?? one.container?.name ?? "", most: 24 },
    ], (one) => `${one.pid} ${one.started_ns}`, { sort: "cpu", down: true, empty: "No process matches." });
    this.node = make("div", {}, make("div", { class: "tools" },
      search("Find", (text) => { this.wanted = text; this.show(); }),
      check("threads of the kernel too", false, (on) => { this.kernels = on; this.show(); }), this.how), this.table.node);
  }

  update(list) {
    this.all = list;
    this.show();
  }

  show() {
    const own = this.all.filter((one) => this.kernels || !one.is_kernel);
    const chosen = own.filter((one) => this.wanted === "" || `${one.pid} ${one.comm} ${command(one)}`.toLowerCase().includes(this.wanted));
    const kernels = this.all.filter((one) => one.is_kernel).length;
    this.how.textContent = `${count(this.all.length - kernels, "process", "processes")}, ${count(kernels, "thread")} of the kernel`;
    this.table.update(chosen);
  }
}

const LEVELS = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];

export class KernelLog {
  constructor() {
    this.all = [];
    this.wanted = "";
    this.badOnly = false;
    this.how = make("p", { class: "how" });
    this.table = new Table("The kernel's log, newest first", [
      { id: "time", head: "Time", number: true, cell: (one) => (one.time_ns / 1e9).toFixed(6) },
      { id: "level", head: "Level", cell: (one) => make("span", { class: one.level <= 3 ? "bad-text" : one.level === 4 ? "warn-text" : "" }, LEVELS[one.level] ?? shown(one.level)) },
      { id: "text", head: "Message", cell: (one) => one.text, wide: true, most: 400 },
    ], (one) => one.sequence, { empty: "No line matches." });
    this.node = make("div", {}, make("div", { class: "tools" },
      search("Find", (text) => { this.wanted = text; this.show(); }),
      check("warnings and errors only", false, (on) => { this.badOnly = on; this.show(); }), this.how), this.table.node);
  }

  update(list) {
    this.all = [...list].reverse();
    this.show();
  }

  show() {
    const bad = this.all.filter((one) => one.level <= 4).length;
    this.how.textContent = `${count(this.all.length, "line")}, newest first; ${count(bad, "warning or error", "warnings and errors")}`;
    this.table.update(this.all.filter((one) => (!this.badOnly || one.level <= 4) && (this.wanted === "" || one.text.toLowerCase().includes(this.wanted))));
  }
}

const SEVERITIES = { critical: "bad-text", warning: "warn-text" };

/** Events, newest first; of one guest, or of all. */
export class Events {
  constructor(vm = null) {
    this.all = [];
    this.wanted = "";
    this.badOnly = false;
    this.lost = make("p", { class: "note warn-text", hidden: true }, "Older events are gone: the daemon keeps the newest only.");
    const columns = [
      { id: "at", head: "When", cell: (one) => make("time", { datetime: new Date(one.at * 1000).toISOString() }, clock(one.at)) },
      { id: "severity", head: "How bad", cell: (one) => make("span", { class: SEVERITIES[one.severity] ?? "" }, shown(one.severity)) },
      { id: "kind", head: "Kind", cell: (one) => one.kind },
      { id: "text", head: "What", cell: (one) => one.text, wide: true, most: 400 },
    ];
    if (vm === null) {
      columns.splice(2, 0, { id: "vm", head: "Guest", cell: (one) => (one.vm ? make("a", { href: `#/vm/${encodeURIComponent(one.vm)}` }, guest(one.vm)) : "") });
    }
    this.table = new Table("Events, newest first", columns, (one) => one.id, { empty: "Nothing has happened." });
    this.node = make("div", {}, make("div", { class: "tools" },
      search("Find", (text) => { this.wanted = text; this.show(); }),
      check("warnings and worse only", false, (on) => { this.badOnly = on; this.show(); })), this.lost, this.table.node);
  }

  update(list) {
    this.all = list;
    this.show();
  }

  show() {
    this.table.update(this.all.filter((one) => (!this.badOnly || one.severity !== "info")
      && (this.wanted === "" || `${one.vm ?? ""} ${one.kind} ${one.text}`.toLowerCase().includes(this.wanted))));
  }
}
