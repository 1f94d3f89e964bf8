// What a guest printed so far, as text: harmless, searchable, and there when the guest is not.

import { make, say, shownLines } from "./text.js";

const MOST = 200000;
// Colours, cursor moves and titles, as far as they are whole. What is left of them is shown.
export const SEQUENCES = /\x1b(?:\[[0-9:;<=>?]*[ -/]*[@-~]|\][^\x07\x1b]{0,1000}(?:\x07|\x1b\\)|[ -/]*[0-~])/g;

export class ConsoleLog {
  constructor() {
    this.last = null;
    this.raw = make("input", { type: "checkbox", change: () => this.show() });
    this.how = make("p", { class: "how" });
    this.text = make("pre", { class: "log guest", tabindex: "0", role: "region", "aria-label": "What the guest printed" });
    this.messages = make("pre", { class: "log short", tabindex: "0", role: "region", "aria-label": "What the VM's processes said of themselves" });
    this.own = make("section", { hidden: true }, make("h2", {}, "What the VM's processes said of themselves"), this.messages);
    this.node = make("div", {}, make("div", { class: "tools" }, make("label", { class: "check" }, this.raw, " show control sequences"), this.how), this.text, this.own);
  }

  update(logs) {
    this.last = logs;
    this.show();
  }

  show() {
    if (!this.last) return;
    const whole = this.last.console ?? "";
    const end = whole.slice(-MOST);
    const wasAtEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 40;
    const before = this.text.textContent;
    say(this.text, shownLines(this.raw.checked ? end : end.replace(SEQUENCES, "")));
    this.how.textContent = whole === "" ? "Nothing was printed." : whole.length > MOST ? `the last ${MOST} of ${whole.length} characters` : `${whole.length} characters`;
    if (wasAtEnd || before === "") this.text.scrollTop = this.text.scrollHeight;
    this.own.hidden = !this.last.messages;
    say(this.messages, shownLines((this.last.messages ?? "").slice(-MOST)));
  }
}
