// Numbers and states in words.

/** What came of a comparison, worst first. */
export const VERDICTS = {
  "contradicts": { word: "CONTRADICTS", mark: "\u2716", tone: "bad", rank: 0 },
  "differs": { word: "differs", mark: "\u25b2", tone: "warn", rank: 1 },
  "not-observable": { word: "not observable", mark: "?", tone: "blind", rank: 2 },
  "costs": { word: "costs", mark: "\u25c6", tone: "cost", rank: 3 },
  "agrees": { word: "agrees", mark: "\u2713", tone: "good", rank: 4 },
};

/** How a guest stands as a whole. */
export const STANDINGS = {
  contradicts: { word: "CONTRADICTS", mark: "\u2716", tone: "bad" },
  blind: { word: "BLIND", mark: "?", tone: "blind" },
  fine: { word: "fine", mark: "\u2713", tone: "good" },
};

/** What a VM is doing. */
export const STATES = {
  starting: { mark: "\u2026", tone: "calm", live: true, means: "it has its name; the guest does not run yet" },
  running: { mark: "\u25b6", tone: "good", live: true, means: "the guest runs, or sleeps by its own will" },
  paused: { mark: "\u2016", tone: "warn", live: true, means: "guest code, devices and the guest's time stand still" },
  waiting: { mark: "!", tone: "bad", live: true, means: "it stands still until there is room for pages of its memory" },
  stopping: { mark: "\u2026", tone: "calm", live: true, means: "its power button was pressed" },
  unresponsive: { mark: "!", tone: "bad", live: true, means: "its process is there and does not answer" },
  ended: { mark: "\u25a0", tone: "calm", live: false, means: "it has ended and said how" },
  died: { mark: "\u2716", tone: "bad", live: false, means: "its process vanished without a word" },
  declared: { mark: "\u25cb", tone: "calm", live: false, means: "it was never started" },
};

export function verdict(name) {
  return VERDICTS[name] ?? { word: String(name), mark: "?", tone: "calm", rank: 2 };
}

export function standing(name) {
  return STANDINGS[name] ?? { word: "not looked at yet", mark: "\u2026", tone: "calm" };
}

export function state(name) {
  return STATES[name] ?? { mark: "?", tone: "calm", live: false, means: "" };
}

/** 93.0 MiB */
export function bytes(count) {
  if (count === null || count === undefined || !Number.isFinite(count)) return "not known";
  if (count < 1024) return `${Math.round(count)}\u00a0B`;
  let value = count;
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${value.toFixed(value < 100 ? 1 : 0)}\u00a0${unit}`;
}

/** 2 h 05 min */
export function time(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "not known";
  const whole = Math.floor(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 60) return seconds < 10 ? `${seconds.toFixed(1)}\u00a0s` : `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min ${pad(whole % 60)}\u00a0s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}\u00a0h ${pad(Math.floor(whole / 60) % 60)}\u00a0min`;
  return `${Math.floor(whole / 86400)}\u00a0d ${Math.floor(whole / 3600) % 24}\u00a0h`;
}

/** 21:03:10 by this browser's clock; with the day if it is not today. */
export function clock(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const then = new Date(seconds * 1000);
  const pad = (number) => String(number).padStart(2, "0");
  const hours = `${pad(then.getHours())}:${pad(then.getMinutes())}:${pad(then.getSeconds())}`;
  if (then.toDateString() === new Date().toDateString()) return hours;
  return `${then.getFullYear()}-${pad(then.getMonth() + 1)}-${pad(then.getDate())} ${hours}`;
}

export function percent(part, whole) {
  if (!whole) return "";
  const value = (100 * part) / whole;
  return value > 0 && value < 0.1 ? "<\u00a00.1\u00a0%" : `${value.toFixed(1)}\u00a0%`;
}

/** `1 guest`, `2 guests` */
export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}
