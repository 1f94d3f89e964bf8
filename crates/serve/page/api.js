// Questions to the daemon, and its streams.

/** The daemon said no, or could not be reached (`status` 0). */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code ?? "";
    this.help = error.help ?? "";
    this.causes = error.causes ?? [];
    this.complaints = error.complaints ?? [];
  }

  /** All of it, as one text. */
  words() {
    const complaints = this.complaints.map((one) => `${one.field}: ${one.what}${one.help ? ` (${one.help})` : ""}`);
    const parts = [this.message, ...this.causes, ...complaints];
    return parts.filter(Boolean).join(": ") + (this.help ? ` (${this.help})` : "");
  }
}

let signedOut = () => {};

/** `call` is called whenever the daemon says that it does not know who asks. */
export function whenSignedOut(call) {
  signedOut = call;
}

/** Asks, and gives the answer's JSON. */
export async function ask(method, path, body, { quiet = false } = {}) {
  let answer;
  try {
    // The type is sent with every change: no form of another site's can send it, so a browser asks before it lets one try.
    answer = await fetch(path, {
      method,
      headers: method === "GET" ? {} : { "content-type": "application/json" },
      body: method === "GET" ? undefined : JSON.stringify(body ?? {}),
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch {
    throw new Refused(0, { message: "the daemon cannot be reached" });
  }
  const text = await answer.text();
  let json = null;
  try {
    json = text === "" ? null : JSON.parse(text);
  } catch {
    json = null;
  }
  if (answer.ok) return json;
  if (answer.status === 401 && !quiet) signedOut();
  throw new Refused(answer.status, json?.error ?? { message: `the daemon answered ${answer.status}` });
}

/** The path of a VM. */
export function vmPath(name, rest = "") {
  return `/v1/vms/${encodeURIComponent(name)}${rest}`;
}

/** Asks a VM to do something, and waits until it is done. */
export async function act(name, action, body) {
  let operation = await ask("POST", vmPath(name, `/${action}`), body);
  let wait = 150;
  while (operation?.id !== undefined && operation.state === "running") {
    await sleep(wait);
    wait = Math.min(wait * 1.5, 1000);
    operation = await ask("GET", `/v1/operations/${encodeURIComponent(operation.id)}`);
  }
  if (operation?.state === "failed" || operation?.state === "cancelled") {
    const why = operation.error;
    throw new Refused(500, typeof why === "object" && why !== null ? why : { message: why ?? `it was ${operation.state}` });
  }
  return operation;
}

export function sleep(milliseconds) {
  return new Promise((wake) => setTimeout(wake, milliseconds));
}

// A stream that is silent for longer than this is taken for dead. The daemon says something every 15 seconds.
const SILENCE_MS = 45000;
const RETRY_MS = [500, 1000, 2000, 5000, 10000, 20000];

/**
 * Follows a stream of server-sent events until `stop()` is called on what this returns.
 *
 * Not the browser's own `EventSource`: that one says nothing of why it fails, so nobody would be told to log in again.
 *
 * `heard(kind, data, id)` is called for each event; `linked({ up, again })` when it is connected, or lost and tried again
 * in `again` milliseconds.
 */
export function follow(path, heard, linked = () => {}) {
  let stopped = false;
  let controller = null;
  let lastId = null;
  let failures = 0;
  let wake = () => {};

  const once = async () => {
    controller = new AbortController();
    let silence = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const headers = { accept: "text/event-stream" };
      if (lastId !== null) headers["last-event-id"] = lastId;
      const answer = await fetch(path, { headers, credentials: "same-origin", cache: "no-store", signal: controller.signal });
      if (answer.status === 401) {
        stopped = true;
        signedOut();
        return;
      }
      if (!answer.ok || !answer.body) return;
      failures = 0;
      linked({ up: true });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser((kind, data, id) => {
        if (id !== null) lastId = id;
        heard(kind, data, id);
      });
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(() => controller.abort(), SILENCE_MS);
        parse(value);
      }
    } finally {
      clearTimeout(silence);
      controller.abort();
    }
  };

  (async () => {
    while (!stopped) {
      await once().catch(() => {});
      if (stopped) break;
      const again = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] * (0.8 + 0.4 * Math.random());
      failures += 1;
      linked({ up: false, again });
      await Promise.race([sleep(again), new Promise((now) => { wake = now; })]);
    }
  })();

  // Who comes back to the page, or to the network, does not wait for the next try.
  const hurry = () => wake();
  window.addEventListener("online", hurry);
  return {
    hurry,
    stop() {
      stopped = true;
      window.removeEventListener("online", hurry);
      controller?.abort();
      wake();
    },
  };
}

/** Takes pieces of a stream and calls `heard` for each whole event in it whose data is JSON. */
export function parser(heard) {
  let rest = "";
  let kind = "message";
  let data = [];
  let id = null;
  const line = (text) => {
    if (text === "") {
      if (data.length > 0) {
        let value;
        try {
          value = JSON.parse(data.join("\n"));
        } catch {
          value = undefined;
        }
        if (value !== undefined) heard(kind, value, id);
      }
      kind = "message";
      data = [];
      id = null;
      return;
    }
    const colon = text.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (field === "event") kind = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  };
  return (piece) => {
    rest += piece;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const text of lines) line(text);
  };
}

/** Calls `work` now and `seconds` after it was done, as long as somebody looks at the page, until it is stopped. */
export function every(seconds, work) {
  let stopped = false;
  (async () => {
    while (!stopped) {
      if (!document.hidden) await work().catch(() => {});
      await sleep(seconds * 1000);
    }
  })();
  return { stop() { stopped = true; } };
}
