// The page: who looks at it, what is shown, and whether what is shown is of now.
//
// Where one is stands behind the # of the address: `#/` is the list of guests, `#/vm/NAME/TAB` one guest, `#/events` what
// happened.

import { ask, whenSignedOut } from "./api.js";
import { Detail } from "./detail.js";
import { EventLog } from "./events.js";
import { Guests, contradicts } from "./guests.js";
import { List } from "./list.js";
import { Login } from "./login.js";
import { Events } from "./tables.js";
import { make, put, say, shown } from "./text.js";
import { clock } from "./words.js";

const main = document.getElementById("main");
const alarm = document.getElementById("alarm");
const who = document.getElementById("who");
const link = document.getElementById("link");
const told = document.getElementById("told");

let session = null;
let guests = null;
let events = null;
let view = null;
let lostAt = null;
// Those that contradicted when it was said last: each is said once.
let alarmed = new Set();

async function begin() {
  try {
    enter(await ask("GET", "/v1/session", undefined, { quiet: true }));
  } catch (error) {
    if (error.status === 401) leave();
    else {
      tellLink(`The daemon does not answer: ${shown(error.words())}. Trying again in 3 s.`);
      setTimeout(begin, 3000);
    }
  }
}

function enter(as) {
  session = { name: as?.name ?? "", role: as?.role ?? "ReadOnly" };
  put(who, make("span", {}, session.name ? `${shown(session.name)}, ${shown(session.role)}` : shown(session.role)), " ",
    make("button", { type: "button", id: "log-out", class: "quiet", click: logOut }, "Log out"));
  who.hidden = false;
  document.body.classList.remove("out");
  tellLink("Connecting.");
  guests = new Guests(update, linked);
  events = new EventLog(update);
  guests.start();
  route();
}

/** Shows the login; `why` one is out, if one was in. */
function leave(why = "") {
  session = null;
  close();
  guests?.stop();
  events?.stop();
  guests = null;
  events = null;
  who.hidden = true;
  document.body.classList.add("out");
  alarm.hidden = true;
  document.title = "Mother";
  tellLink(why);
  const login = new Login(enter);
  put(main, login.node);
  login.field.focus();
}

async function logOut() {
  await ask("DELETE", "/v1/session", undefined, { quiet: true }).catch(() => {});
  leave("You are logged out.");
}

function close() {
  view?.close?.();
  view = null;
}

/** Shows what the address says. */
function route() {
  if (!session) return;
  const [, page = "", name = "", tab = "truth"] = location.hash.split("/");
  const before = view;
  let plain = name;
  try {
    plain = decodeURIComponent(name);
  } catch {
    // An address that is no address is a name that nobody has.
  }
  if (page === "vm" && before?.name === plain) {
    if (before.tab !== tab) before.show(tab);
    return;
  }
  before?.close?.();
  if (page === "vm") {
    view = new Detail(plain, tab, { guests, events, session }, (id) => history.replaceState(null, "", `#/vm/${encodeURIComponent(plain)}/${id}`));
    put(main, view.node);
    view.heading.focus();
  } else if (page === "events") {
    const table = new Events();
    const heading = make("h1", { id: "events-head", tabindex: "-1" }, "Events");
    events.start();
    view = {
      update() { table.lost.hidden = !events.lost; table.update(events.list()); },
      close() { events.stop(); },
    };
    put(main, make("section", { class: "page", "aria-labelledby": "events-head" }, make("div", { class: "bar" }, heading), table.node));
    heading.focus();
  } else {
    view = new List(guests);
    put(main, view.node);
    // Who comes back from a guest goes on where it stands in the list.
    if (before?.name) view.bodies.get(before.name)?.link.focus();
  }
  for (const [id, here] of [["to-guests", page !== "events"], ["to-events", page === "events"]]) {
    const element = document.getElementById(id);
    if (here) element.setAttribute("aria-current", page === "vm" ? "true" : "page");
    else element.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
  update();
}

function update() {
  if (!session) return;
  view?.update();
  const bad = guests.sorted().filter(contradicts).map((vm) => vm.name);
  const words = bad.length === 0 ? "" : bad.length === 1 ? "1 guest CONTRADICTS" : `${bad.length} guests CONTRADICT`;
  if (alarm.textContent !== words) put(alarm, words ? make("a", { href: "#/" }, words) : "");
  alarm.hidden = bad.length === 0;
  document.title = `${bad.length > 0 ? `(${bad.length}!) ` : ""}${view?.name ? `${shown(view.name)} \u00b7 ` : ""}Mother`;
  const fresh = bad.filter((name) => !alarmed.has(name));
  if (fresh.length > 0) told.textContent = `${fresh.map(shown).join(", ")} CONTRADICTS`;
  alarmed = new Set(bad);
}

function linked({ up, again }) {
  document.body.classList.toggle("stale", !up);
  if (up) {
    lostAt = null;
    tellLink("Live.");
    return;
  }
  lostAt ??= Date.now() / 1000;
  const what = guests.whole ? ` since ${clock(lostAt)}: what is shown is from then` : "";
  tellLink(`Not connected${what}. Trying again in ${Math.ceil(again / 1000)} s.`);
}

function tellLink(text) {
  say(link, text);
  link.classList.toggle("up", text === "Live.");
  link.classList.toggle("silent", text === "");
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) guests?.stream?.hurry();
});
window.addEventListener("hashchange", route);
whenSignedOut(() => {
  if (session) leave("The daemon does not know you any more. Log in again, and you are where you were.");
});
begin();
