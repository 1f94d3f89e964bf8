// How text gets onto the page.
//
// Names of processes, lines of logs and much else is written by guests, which may be hostile. Nothing here makes markup of
// a text: elements are made by name, and text becomes text nodes. What a text could do without markup (hide, turn the
// direction of what stands beside it, go on for ever) is made visible, or cut.

const LONGEST = 20000;

// Control and format characters, lone surrogates, separators of lines, and letters that are blank.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0]/gu;
const UNSEEN_BUT_LINES = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0]/gu;
// Ends of lines as terminals have them. The bound keeps a million carriage returns from taking a million steps each.
const ENDS = /\r{1,4}\n/g;
// Marks that pile up reach over the lines above and below.
const PILE = /(\p{M}{4})\p{M}+/gu;

function picture(character) {
  const code = character.codePointAt(0);
  // Written out, as the pictures that Unicode has for them are in few fonts.
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** A text of a guest's as one line that shows all that is in it. */
export function shown(text) {
  return String(text ?? "").slice(0, LONGEST).replace(UNSEEN, picture).replace(PILE, "$1\ufffd");
}

/** The same of a text of several lines, which stay lines. */
export function shownLines(text) {
  return String(text ?? "").replace(ENDS, "\n").replace(UNSEEN_BUT_LINES, picture).replace(PILE, "$1\ufffd");
}

/**
 * An element. Attributes that are functions listen; `null`, `undefined` and `false` are left out. Children are nodes or
 * text, never markup.
 */
export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for a picture. */
export function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A text of a guest's, whose direction ends where it ends. */
export function guest(text) {
  return make("bdi", { class: "guest" }, shown(text));
}

/** A text of a guest's, cut after `most` characters, with the rest behind a button that needs no script. */
export function long(text, most = 160) {
  const all = shown(text);
  if (all.length <= most) return guest(all);
  const length = String(text).length;
  const rest = length > LONGEST ? `${all} (cut here: ${length} characters)` : all;
  return make("details", { class: "long" },
    make("summary", { title: all.slice(0, 1000) }, make("bdi", { class: "guest" }, all.slice(0, most)), ` … (${length} characters)`),
    make("bdi", { class: "guest" }, rest));
}

/** Puts `nodes` into `element` in place of what is there. */
export function put(element, ...nodes) {
  element.replaceChildren(...nodes.flat().filter((node) => node !== null && node !== undefined && node !== false));
}

/** Writes `text` into `element` unless it stands there: a screen reader would say it again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
