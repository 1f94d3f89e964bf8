// A browser without a screen, spoken to in the Chrome DevTools Protocol through two pipes: JSON, each message ended by a
// zero byte. Nothing but Node is needed.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ANSWER_MS = 20000;

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.folder = mkdtempSync(join(tmpdir(), "mother-page-"));
    const options = [
      "--headless=new", "--remote-debugging-pipe", `--user-data-dir=${browser.folder}`, "--no-first-run", "--no-default-browser-check",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-gpu",
      "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars", "--lang=en",
      // A daemon under test has a certificate of its own.
      "--ignore-certificate-errors",
      // Chromium's own sandbox refuses root; what is opened here is our own page alone.
      ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []), "about:blank",
    ];
    browser.child = spawn(process.env.CHROMIUM ?? "chromium", options, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    await new Promise((ready, failed) => {
      browser.child.once("error", (error) => failed(new Error(`cannot start ${error.path ?? "chromium"}: ${error.message}`)));
      browser.child.once("spawn", ready);
    });
    browser.listen();
    return browser;
  }

  constructor() {
    this.number = 0;
    this.waiting = new Map();
    this.listeners = [];
  }

  listen() {
    let parts = [];
    this.child.stdio[4].on("data", (piece) => {
      let from = 0;
      for (let end = piece.indexOf(0); end >= 0; end = piece.indexOf(0, from)) {
        parts.push(piece.subarray(from, end));
        this.heard(JSON.parse(Buffer.concat(parts).toString()));
        parts = [];
        from = end + 1;
      }
      parts.push(piece.subarray(from));
    });
    this.child.stdio[3].on("error", () => {});
    this.child.once("exit", () => {
      for (const { failed } of this.waiting.values()) failed(new Error("the browser has ended"));
    });
  }

  heard(message) {
    const waiting = this.waiting.get(message.id);
    if (waiting) {
      this.waiting.delete(message.id);
      if (message.error) waiting.failed(new Error(`${waiting.method}: ${message.error.message}`));
      else waiting.done(message.result);
    }
    if (message.method) for (const listener of this.listeners) listener(message.method, message.params, message.sessionId);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = ++this.number;
    return new Promise((done, failed) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        failed(new Error(`${method}: no answer`));
      }, ANSWER_MS);
      const settle = (call) => (value) => { clearTimeout(timer); call(value); };
      this.waiting.set(id, { method, done: settle(done), failed: settle(failed) });
      this.child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  async page() {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    return new Page(this, sessionId);
  }

  async stop() {
    const late = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));
    const ended = new Promise((done) => this.child.once("exit", done));
    // One that is asked to close ends its other processes; one that is killed leaves them behind for a while.
    this.send("Browser.close").catch(() => {});
    await Promise.race([ended, late(5000)]);
    this.child.kill("SIGKILL");
    for (let tries = 0; tries < 50; tries += 1) {
      try {
        rmSync(this.folder, { recursive: true, force: true });
        await late(100);
        if (!existsSync(this.folder)) return;
      } catch {
        await late(100);
      }
    }
  }
}

const KEYS = {
  Tab: { code: "Tab", windowsVirtualKeyCode: 9 }, Enter: { code: "Enter", windowsVirtualKeyCode: 13, text: "\r" },
  Escape: { code: "Escape", windowsVirtualKeyCode: 27 }, ArrowRight: { code: "ArrowRight", windowsVirtualKeyCode: 39 },
  ArrowLeft: { code: "ArrowLeft", windowsVirtualKeyCode: 37 }, Home: { code: "Home", windowsVirtualKeyCode: 36 },
  End: { code: "End", windowsVirtualKeyCode: 35 }, F6: { code: "F6", windowsVirtualKeyCode: 117 },
};

export class Page {
  constructor(browser, sessionId) {
    this.browser = browser;
    this.sessionId = sessionId;
    browser.listeners.push((method, params, from) => {
      if (from === sessionId) this.event?.(method, params);
    });
  }

  send(method, params) {
    return this.browser.send(method, params, this.sessionId);
  }

  /** Runs a function in the page, with arguments that are JSON, and gives what it gives. */
  async run(work, ...values) {
    const expression = `(${work})(${values.map((value) => JSON.stringify(value)).join(",")})`;
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until a function in the page gives something that is true, and gives that. */
  async until(what, milliseconds, work, ...values) {
    const end = Date.now() + milliseconds;
    let why = "";
    for (;;) {
      // While another document is loaded there is nothing to ask, or half of it.
      const value = await this.run(work, ...values).catch((error) => { why = error.message; });
      if (value) return value;
      if (Date.now() > end) throw new Error(`not within ${milliseconds / 1000} s: ${what} ${why}`);
      await new Promise((wake) => setTimeout(wake, 60));
    }
  }

  async key(key, modifiers = 0) {
    const event = { key, modifiers, ...KEYS[key] };
    await this.send("Input.dispatchKeyEvent", { type: event.text ? "keyDown" : "rawKeyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event, text: undefined });
  }

  /** Types as a keyboard does, key by key. */
  async type(text) {
    for (const character of text) {
      if (character === "\r") await this.key("Enter");
      else {
        await this.send("Input.dispatchKeyEvent", { type: "keyDown", key: character, text: character, unmodifiedText: character });
        await this.send("Input.dispatchKeyEvent", { type: "keyUp", key: character });
      }
    }
  }

  async size(width, height) {
    await this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 500 });
  }

  async looks(scheme, motion = "no-preference") {
    await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: motion }] });
  }

  async picture() {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }
}
