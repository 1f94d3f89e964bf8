// A guest's console: what it prints as it prints it, and what is typed here.

import { vmPath } from "./api.js";
import { allowTerminalStyles } from "./console-style.js";
import { make, shown } from "./text.js";

const RETRY_MS = [1000, 2000, 5000, 10000];
// A guest can print faster than a browser draws. What waits to be drawn is bounded, and what is left out is said.
const WAITING_MOST = 4 << 20;

// What a terminal answers by itself: where its cursor is, what it is, what its modes and colours are.
const ANSWER = /^\x1b(?:\[[?>=]?[0-9;]*\$?[Rcnty]|[\]P])/;

// Characters that turn the direction of what stands beside them, and a terminal has no place for.
const TURNERS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

const THEME = {
  background: "#0e1216", foreground: "#dde3ea", cursor: "#ffd479", cursorAccent: "#0e1216", selectionBackground: "#3b5b85",
};

export class Console {
  /** `types` says whether this person may type; who may not only looks. `runs()` says whether there is a guest to talk to. */
  constructor(name, types, runs) {
    this.name = name;
    this.types = types;
    this.runs = runs;
    this.socket = null;
    this.wanted = false;
    this.failures = 0;
    this.waiting = 0;
    this.dropped = 0;
    this.isReplay = false;
    this.how = make("p", { class: "how", role: "status", "aria-live": "polite" });
    this.again = make("button", { type: "button", hidden: true, click: () => { this.failures = 0; this.connect(); } }, "Connect now");
    this.reader = make("input", { type: "checkbox", change: () => { if (this.terminal) this.terminal.options.screenReaderMode = this.reader.checked; } });
    this.place = make("div", { class: "screen", role: "group", "aria-label": `Console of ${shown(name)}` });
    this.leave = make("button", { type: "button", id: "leave-console", click: () => document.getElementById("tab-console")?.focus() }, "Back to the tabs");
    this.node = make("div", { class: "console" },
      make("div", { class: "tools" }, this.how, this.again, make("label", { class: "check" }, this.reader, " for a screen reader")),
      this.place,
      make("div", { class: "tools" }, make("p", { class: "hint" }, types ? "F6 leaves the terminal; all other keys go to the guest." : "You may look and not type."), this.leave));
  }

  async show() {
    this.wanted = true;
    if (!this.terminal) {
      // Only who looks at a console pays for the terminal.
      const [{ Terminal }, { FitAddon }] = await Promise.all([import("/page/vendor/xterm.mjs"), import("/page/vendor/addon-fit.mjs")]);
      if (this.terminal) return;
      allowTerminalStyles();
      this.terminal = new Terminal({
        theme: THEME, scrollback: 5000, disableStdin: !this.types, minimumContrastRatio: 4.5,
        fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace", fontSize: 13, screenReaderMode: this.reader.checked,
        // A link is a guest's text. It leads nowhere.
        linkHandler: { activate: () => {}, allowNonHttpProtocols: false },
      });
      this.fit = new FitAddon();
      this.terminal.loadAddon(this.fit);
      this.terminal.open(this.place);
      const text = new TextEncoder();
      this.terminal.onData((typed) => {
        // The first message is what was printed before. Questions to the terminal in it were answered then, and another
        // answer would be typed into whatever reads now.
        if (!this.isReplay || !ANSWER.test(typed)) this.send(text.encode(typed));
      });
      this.terminal.onBinary((typed) => this.send(Uint8Array.from(typed, (character) => character.charCodeAt(0) & 0xff)));
      this.terminal.onResize(() => this.tellSize());
      this.terminal.attachCustomKeyEventHandler((event) => {
        if (event.key !== "F6") return true;
        event.preventDefault();
        if (event.type === "keydown") this.leave.focus();
        return false;
      });
      this.watcher = new ResizeObserver(() => this.resize());
      this.watcher.observe(this.place);
    }
    if (!this.wanted) return;
    this.resize();
    this.connect();
  }

  hide() {
    this.wanted = false;
    clearTimeout(this.timer);
    this.socket?.close();
    this.socket = null;
  }

  close() {
    this.hide();
    this.watcher?.disconnect();
    this.terminal?.dispose();
    this.terminal = null;
  }

  connect() {
    clearTimeout(this.timer);
    if (!this.wanted || this.socket) return;
    this.again.hidden = true;
    if (!this.runs()) {
      this.tell("The guest does not run. The console log has what it printed.");
      this.timer = setTimeout(() => this.connect(), RETRY_MS[0]);
      return;
    }
    this.tell("Connecting.");
    const address = new URL(vmPath(this.name, "/console") + (this.types ? "" : "?types=false"), location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    const utf8 = new TextDecoder();
    this.socket = socket;
    socket.onopen = () => {
      this.failures = 0;
      // What the daemon keeps of the console comes again with each connection.
      this.terminal.reset();
      this.isReplay = true;
      this.tell(this.types ? "Connected." : "Connected, to look only.");
      this.tellSize();
    };
    socket.onmessage = (event) => {
      if (event.data instanceof ArrayBuffer) this.print(utf8.decode(event.data, { stream: true }));
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.socket = null;
      if (!this.wanted) return;
      if (!this.runs()) {
        this.connect();
        return;
      }
      const wait = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
      this.failures += 1;
      this.again.hidden = false;
      this.tell(`Not connected${event.reason ? `: ${shown(event.reason)}` : ""}. Trying again in ${wait / 1000} s.`);
      this.timer = setTimeout(() => this.connect(), wait);
    };
  }

  print(text) {
    if (this.waiting > WAITING_MOST) {
      this.dropped += text.length;
      return;
    }
    const note = this.dropped > 0 ? `\r\n[${this.dropped} characters were left out: they came too fast]\r\n` : "";
    this.dropped = 0;
    const safe = note + text.replace(TURNERS, "\ufffd");
    this.waiting += safe.length;
    this.terminal.write(safe, () => {
      this.waiting -= safe.length;
      this.isReplay = false;
    });
  }

  send(bytes) {
    if (this.types && this.socket?.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  resize() {
    if (this.place.clientWidth > 0) this.fit.fit();
  }

  tellSize() {
    if (this.socket?.readyState !== WebSocket.OPEN || !this.types) return;
    this.socket.send(JSON.stringify({ resize: { rows: this.terminal.rows, columns: this.terminal.cols } }));
  }

  tell(text) {
    this.how.textContent = text;
  }
}
