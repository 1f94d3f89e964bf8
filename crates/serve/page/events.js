// What happened, kept up to date by the daemon's stream. Followed only while somebody looks at events: a browser has few
// connections to one place.

import { ask, follow } from "./api.js";

const EVENTS_MOST = 1000;

export class EventLog {
  constructor(changed) {
    this.known = new Map();
    this.lost = false;
    this.changed = changed;
    this.stream = null;
  }

  /** Newest first; of one guest, if it is named. */
  list(vm = null) {
    return [...this.known.values()].filter((event) => vm === null || event.vm === vm).sort((a, b) => b.id - a.id);
  }

  start() {
    if (this.stream) return;
    this.stream = follow("/v1/events/stream", (kind, data) => {
      if (kind === "lost") this.lost = true;
      else this.take([data]);
      this.changed();
    }, (link) => {
      if (link.up) this.catchUp();
    });
    this.catchUp();
  }

  /** Asks for what was before: at the start, and when the stream is there, for what came in between. */
  async catchUp() {
    const answer = await ask("GET", `/v1/events?limit=${EVENTS_MOST}`).catch(() => null);
    if (Array.isArray(answer?.events)) this.take(answer.events);
    this.changed();
  }

  stop() {
    this.stream?.stop();
    this.stream = null;
  }

  take(events) {
    for (const event of events) if (Number.isFinite(event?.id)) this.known.set(event.id, event);
    const over = [...this.known.keys()].sort((a, b) => a - b).slice(0, Math.max(0, this.known.size - EVENTS_MOST));
    for (const id of over) this.known.delete(id);
  }
}
