// What a guest was asked to be, and what is known of it as a whole.

import { guest, long, make, put, shown, shownLines } from "./text.js";
import { bytes, clock, count, time } from "./words.js";
import { wordsOf } from "./list.js";

export class About {
  constructor() {
    this.facts = make("dl", { class: "pairs" });
    this.spec = make("pre", { class: "log short", tabindex: "0", role: "region", "aria-label": "The declaration" });
    this.declared = make("section", { hidden: true }, make("h2", {}, "Declaration"), this.spec);
    this.node = make("div", {}, this.facts, this.declared);
    this.inspect = null;
    this.said = "";
  }

  answer(inspect) {
    this.inspect = inspect;
  }

  update(vm) {
    const system = this.inspect?.guest?.system ?? {};
    const seen = (observed) => observed?.seen?.value;
    const limits = Object.entries(this.inspect?.limits ?? {}).filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
    const pairs = [
      ["State", vm.state],
      ["Trouble", vm.trouble ? wordsOf(vm.trouble) : null],
      ["End", vm.end ? [vm.end.message, vm.end.exit_status !== undefined ? `exit status ${vm.end.exit_status}` : "", vm.end.ended_at ? clock(vm.end.ended_at) : ""].filter(Boolean).join(", ") : null],
      ["Hostname, by its own word", seen(system.hostname)],
      ["Kernel", system.banner],
      ["Kernel's command line", seen(system.command_line)],
      ["Engine", vm.engine],
      ["Process of the VM", vm.pid],
      ["vCPUs", vm.vcpus],
      ["Memory", vm.memory_given_bytes ? bytes(vm.memory_given_bytes) : null],
      ["Started", vm.started_at ? clock(vm.started_at) : null],
      ["CPU time", Number.isFinite(vm.cpu_seconds) ? time(vm.cpu_seconds) : null],
      ["Reboots", vm.reboots],
      ["Consoles attached", vm.consoles],
      ["Network", this.inspect?.network],
      ["Ports", (vm.ports ?? []).map((port) => (typeof port === "string" ? port : JSON.stringify(port))).join(", ") || null],
      ["Labels", Object.entries(vm.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(", ") || null],
      ["Limits", limits.join(", ") || null],
      ["Wanted", vm.declared ? `${vm.declared.desired}; restarted ${vm.declared.restart}; ${vm.declared.boot ? "started with the host" : "not started with the host"}; order ${vm.declared.order}; ${count(vm.declared.version ?? 0, "change")}` : "not declared: somebody started it"],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    const said = JSON.stringify(pairs) + JSON.stringify(vm.declared);
    if (said === this.said) return;
    this.said = said;
    put(this.facts, pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, typeof value === "number" ? guest(shown(value)) : long(value, 300))]));
    this.declared.hidden = !vm.declared;
    if (vm.declared) this.spec.textContent = shownLines(JSON.stringify(vm.declared.spec ?? {}, null, 2));
  }
}
