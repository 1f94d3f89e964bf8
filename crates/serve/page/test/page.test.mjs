// The page in a real browser, against any server that speaks the interface.
//
//   node page.test.mjs URL TOKEN GUEST [READER_TOKEN]
//
// GUEST is a guest that runs and has a root shell on its console; TOKEN may do everything with it, READER_TOKEN may only
// look. The test makes the guest hostile and a liar itself, by typing into its console. One line for each check; the exit
// status is 1 if one failed. PICTURES=FOLDER keeps pictures of what was seen.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Browser } from "./browser.mjs";
import { harm, poorContrast, tooWide } from "./inpage.mjs";

const [base, token, guest, reader] = process.argv.slice(2);
if (!guest) {
  console.error("usage: node page.test.mjs URL TOKEN GUEST [READER_TOKEN]");
  process.exit(2);
}
const LONGEST_MS = 240000;
const CONTRAST = 4.5;
const TABS = ["truth", "memory", "processes", "dmesg", "logs", "console", "events", "about"];
const origin = new URL(base).origin;

const violations = [];
const strangers = [];
const dialogs = [];
const errors = [];
let policy = null;
let failed = 0;

async function check(what, work) {
  try {
    await work();
    console.log(`ok      ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${what}: ${String(error.message).slice(0, 600)}`);
  }
}

function want(condition, why) {
  if (!condition) throw new Error(why);
}

function same(a, b, what) {
  want(JSON.stringify(a) === JSON.stringify(b), `${what}: ${JSON.stringify(a)} and not ${JSON.stringify(b)}`);
}

const timer = setTimeout(() => {
  console.log(`FAILED  the test did not end within ${LONGEST_MS / 1000} s`);
  browser?.child.kill("SIGKILL");
  process.exit(1);
}, LONGEST_MS);

let browser = null;
browser = await Browser.start();
const page = await browser.page();
page.event = (method, params) => {
  if (method === "Page.javascriptDialogOpening") {
    dialogs.push(params.message);
    page.send("Page.handleJavaScriptDialog", { accept: false }).catch(() => {});
  } else if (method === "Log.entryAdded") {
    if (params.entry.source === "security" || /Content Security Policy/.test(params.entry.text)) violations.push(params.entry.text);
  } else if (method === "Runtime.exceptionThrown") errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  else if (method === "Runtime.bindingCalled" && params.name === "policyViolated") violations.push(params.payload);
  else if (method === "Network.requestWillBeSent" || method === "Network.webSocketCreated") {
    const url = new URL(params.request?.url ?? params.url);
    const here = new URL(base);
    if (!["data:", "about:"].includes(url.protocol) && url.host !== here.host) strangers.push(url.href);
  } else if (method === "Network.responseReceived" && params.type === "Document") {
    policy = Object.entries(params.response.headers).find(([name]) => name.toLowerCase() === "content-security-policy")?.[1] ?? null;
  }
};
for (const domain of ["Page", "Runtime", "Network", "Log"]) await page.send(`${domain}.enable`);
await page.send("Runtime.addBinding", { name: "policyViolated" });
await page.send("Page.addScriptToEvaluateOnNewDocument", {
  source: "addEventListener('securitypolicyviolation', (event) => policyViolated(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));",
});

async function picture(name) {
  if (process.env.PICTURES) writeFileSync(join(process.env.PICTURES, `${name}.png`), await page.picture());
}

async function logIn(with_) {
  await page.until("the field for the token", 10000, () => document.activeElement?.id === "token");
  await page.type(with_);
  await page.key("Enter");
}

async function go(hash) {
  await page.run((to) => { location.hash = to; }, hash);
}

async function openTab(id) {
  await go(`#/vm/${encodeURIComponent(guest)}/${id}`);
  await page.until(`the tab ${id}`, 5000, (tab) => document.getElementById(`tab-${tab}`)?.getAttribute("aria-selected") === "true" && !document.getElementById(`panel-${tab}`).hidden, id);
}

/** Presses Tab until an element is reached. */
async function tabTo(selector, most = 60) {
  for (let pressed = 0; pressed < most; pressed += 1) {
    if (await page.run((wanted) => document.activeElement?.matches(wanted) ?? false, selector)) return;
    await page.key("Tab");
  }
  throw new Error(`${selector} is not reached by ${most} presses of Tab`);
}

function stateIs(name, state) {
  const badge = document.querySelector(".detail .badge.state") ?? [...document.querySelectorAll(".guests tbody")].find((body) => body.dataset.name === name)?.querySelector(".badge.state");
  return badge?.textContent.includes(state);
}

/** Asks the daemon without the page's buttons. */
function byHand(name, action) {
  return fetch(`/v1/vms/${encodeURIComponent(name)}/${action}`, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" }).then((answer) => answer.status);
}

async function typeInConsole(line) {
  await page.run(() => document.querySelector(".xterm-helper-textarea").focus());
  await page.type(`${line}\r`);
}

const screen = (text) => (document.querySelector(".xterm-rows")?.innerText ?? "").replaceAll("\u00a0", " ").includes(text);

await page.size(1280, 800);
await page.looks("light");
await page.send("Page.navigate", { url: base });

await check("who has no token is asked for one, and a wrong one is refused in words", async () => {
  await logIn("not-a-token");
  await page.until("the refusal", 5000, () => /not known/.test(document.querySelector(".login .said")?.textContent ?? ""));
  same(await page.run(poorContrast, CONTRAST), [], "contrast of the login");
  await picture("login");
});

await check("a token becomes a cookie that no script can read", async () => {
  await page.run(() => { document.getElementById("token").value = ""; document.getElementById("token").focus(); });
  await logIn(token);
  await page.until("the list", 10000, () => document.querySelector(".guests tbody"));
  same(await page.run(() => [document.cookie, localStorage.length, sessionStorage.length]), ["", 0, 0], "what scripts can read");
});

await check("every guest is in the list, with claim, kernel and truth", async () => {
  await page.until("all guests", 10000, async (name) => {
    const all = (await (await fetch("/v1/vms")).json()).vms.map((vm) => vm.name);
    const shown = [...document.querySelectorAll(".guests tbody")].map((body) => body.dataset.name);
    return all.includes(name) && all.every((one) => shown.includes(one));
  }, guest);
  same(await page.run(() => [...document.querySelectorAll(".guests thead th")].map((head) => head.textContent)), ["Guest", "Subject", "Claim", "Kernel", "Truth", "Verdict"], "columns");
});

await check("the page says in words that it is live", async () => {
  await page.until("the word", 5000, () => document.getElementById("link").textContent === "Live.");
});

await check("Tab and Enter open a guest", async () => {
  await page.send("Page.reload");
  await page.until("the list, without another login", 10000, () => document.querySelector(".guests tbody"));
  await page.key("Tab");
  want(await page.run(() => document.activeElement.className === "skip"), "the first press of Tab does not reach the skip link");
  await tabTo(`a.name[href="#/vm/${encodeURIComponent(guest)}"]`);
  want(await page.run(() => getComputedStyle(document.activeElement).outlineStyle !== "none"), "the focus cannot be seen");
  await page.key("Enter");
  await page.until("the guest's page", 5000, () => document.activeElement?.id === "guest-head");
  await page.until("its truth", 20000, () => document.querySelectorAll(".truth tbody tr").length > 3);
});

await check("tabs are tabs: roles, arrows, Enter", async () => {
  await tabTo("[role=tab]");
  same(await page.run(() => [...document.querySelectorAll("[role=tab]")].map((tab) => tab.id.slice(4))), TABS, "tabs");
  await page.key("ArrowRight");
  same(await page.run(() => document.activeElement.id), "tab-memory", "after an arrow");
  await page.key("Enter");
  await page.until("the panel", 3000, () => !document.getElementById("panel-memory").hidden && document.getElementById("panel-truth").hidden);
  await page.key("End");
  same(await page.run(() => document.activeElement.id), "tab-about", "after End");
  same(await page.run(() => [...document.querySelectorAll("[role=tab]")].filter((tab) => tab.tabIndex === 0).length), 1, "tabs that Tab reaches");
});

await check("where memory lies is a picture, with words and numbers that add up", async () => {
  await openTab("memory");
  const rows = await page.until("the places", 20000, () => {
    const found = [...document.querySelectorAll(".places tbody tr")].map((row) => [...row.children].slice(0, 3).map((cell) => cell.textContent));
    return found.length >= 6 && document.querySelector(".map svg title") ? found : null;
  });
  const sum = rows.reduce((all, row) => all + (Number.parseFloat(row[2].replace("<", "")) || 0), 0);
  want(Math.abs(sum - 100) < 1, `the shares are ${sum} % together: ${JSON.stringify(rows)}`);
  await page.until("the curve", 25000, () => document.querySelector(".chart .line-set"));
  await picture("memory");
});

await check("Pause by keyboard, and the page shows it within 3 s", async () => {
  await openTab("truth");
  await page.run(() => document.getElementById("guest-head").focus());
  await tabTo("#do-pause");
  await page.key("Enter");
  await page.until("paused", 3000, stateIs, guest, "paused");
  await picture("paused");
});

await check("what somebody else did is shown within 3 s, in the guest's page and in the list", async () => {
  want((await page.run(byHand, guest, "resume")) < 300, "resume is refused");
  await page.until("running", 3000, stateIs, guest, "running");
  await go("#/");
  await page.until("the list", 3000, () => document.querySelector(".guests"));
  want((await page.run(byHand, guest, "pause")) < 300, "pause is refused");
  await page.until("paused", 3000, stateIs, guest, "paused");
  want((await page.run(byHand, guest, "resume")) < 300, "resume is refused");
  await page.until("running", 3000, stateIs, guest, "running");
});

await check("what is dangerous asks first, in the page, and Cancel has the focus", async () => {
  await openTab("truth");
  await tabTo("#do-kill");
  await page.key("Enter");
  await page.until("the question", 3000, () => document.querySelector("dialog[open]"));
  same(await page.run(() => document.activeElement.textContent), "Cancel", "focus");
  await picture("confirm");
  await page.key("Escape");
  await page.until("no question", 3000, () => !document.querySelector("dialog"));
  want(await page.run(stateIs, guest, "running"), "it does not run any more");
});

await check("a limit is set by keyboard, what is no limit is refused in words, and the picture shows it", async () => {
  const limit = async (value, says) => {
    await tabTo("#do-limit");
    await page.key("Enter");
    await page.until("the form", 5000, () => document.activeElement?.closest("dialog"));
    await tabTo("#field-resident", 12);
    await page.type(value);
    await picture("limit");
    await page.key("Enter");
    await page.until(says, 15000, (what) => document.querySelector(".actions .said").textContent.includes(what) && !document.querySelector("dialog"), says);
  };
  await openTab("memory");
  await limit("lots", "Limit failed: ");
  await limit("60%", "Limit: done.");
  await page.until("the limit", 15000, () => /limit \d/.test(document.querySelector(".map-words")?.textContent ?? "") && document.querySelector(".map .limit-mark"));
  await limit("none", "Limit: done.");
  await page.until("no limit", 15000, () => /no limit/.test(document.querySelector(".map-words")?.textContent ?? ""));
});

await check("the console echoes what is typed, and F6 leaves it", async () => {
  await openTab("console");
  await page.until("the connection", 10000, () => /^Connected/.test(document.querySelector(".console .how").textContent));
  await typeInConsole('echo moth""er-echo');
  await page.until("the echo", 10000, screen, "mother-echo");
  await typeInConsole("echo; printf '\\033[38;2;255;120;0mtrue-\\033[1mcolour\\033[0m\\n'");
  await page.key("F6");
  same(await page.run(() => document.activeElement.id), "leave-console", "focus after F6");
  await picture("console");
});

await check("hostile names, log lines and output are text", async () => {
  await typeInConsole("(printf '<b>evil</b>' >/proc/self/comm; sleep 600; :) &");
  await typeInConsole("printf '<img src=x onerror=alert(1)> \\342\\200\\256 \\033[31m%0700d\\n' 1 >/dev/kmsg");
  await typeInConsole("printf '<img src=x onerror=alert(2)>\\342\\200\\256\\001<script>alert(3)</script>\\n'");
  await openTab("processes");
  await page.until("the process", 20000, () => document.querySelector("#panel-processes tbody")?.textContent.includes("<b>evil</b>"));
  same(await page.run(harm), [], "made of processes");
  await openTab("dmesg");
  await page.until("the line", 20000, () => document.querySelector("#panel-dmesg tbody")?.textContent.includes("<img src=x"));
  same(await page.run(harm), [], "made of the kernel's log");
  await openTab("logs");
  await page.until("the output", 20000, () => document.querySelector("#panel-logs .log")?.textContent.includes("<script>alert(3)</script>"));
  same(await page.run(harm), [], "made of the console's log");
  same(dialogs, [], "dialogs");
});

await check("a guest that lies comes first, in words", async () => {
  await openTab("console");
  await page.until("the connection", 10000, () => /^Connected/.test(document.querySelector(".console .how").textContent));
  // It says so again and again: what was claimed once is old soon, and an old claim is no lie.
  await typeInConsole('for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = mother.claims ] && port=/dev/${p##*/}; done');
  await typeInConsole('while sleep 1; do echo "claim memory_used_percent 95" >$port; done &');
  await go("#/");
  await page.until("the contradiction", 60000, (name) => {
    const body = [...document.querySelectorAll(".guests tbody")].find((one) => one.dataset.name === name);
    return body?.querySelector(".badge.standing")?.textContent.includes("CONTRADICTS") && body.querySelector("tr .verdict")?.textContent.includes("CONTRADICTS");
  }, guest);
  want(await page.run(() => /CONTRADICT/.test(document.getElementById("alarm").textContent) && /^\(\d+!\)/.test(document.title)), "the top of the page does not say so");
  await picture("list-light");
});

await check("contradictions are first, and those that do not run last", async () => {
  const ranks = await page.run(() => [...document.querySelectorAll(".guests tbody")].map((body) => Number(body.className.match(/rank-(\d)/)[1])));
  same(ranks, [...ranks].sort(), "the order");
  same(ranks[0], 0, "the first");
  const standings = await page.run(() => [...document.querySelectorAll(".guests tbody")].map((body) => /CONTRADICTS/.test(body.querySelector(".badges").textContent)));
  same(standings, [...standings].sort((a, b) => Number(b) - Number(a)), "contradictions");
});

await check("the guest's page begins with what contradicts", async () => {
  await openTab("truth");
  await page.until("the warning", 20000, () => /CONTRADICTS/.test(document.querySelector(".warning:not([hidden])")?.textContent ?? ""));
  await page.until("the row", 20000, () => /CONTRADICTS/.test(document.querySelector(".truth tbody tr .verdict")?.textContent ?? ""));
  want(await page.run(() => document.querySelector(".warning").getBoundingClientRect().bottom < innerHeight), "one has to scroll to see it");
  await picture("detail-light");
});

await check("events are told, of all guests and of one", async () => {
  await openTab("events");
  await page.until("events of one", 8000, () => document.querySelectorAll("#panel-events tbody tr").length > 0);
  await go("#/events");
  await page.until("events of all", 8000, () => document.querySelectorAll("#main tbody tr").length > 0);
  same(await page.run(harm), [], "made of events");
  await picture("events");
});

await check(`contrast is ${CONTRAST} or more, light and dark, everywhere`, async () => {
  const poor = [];
  for (const scheme of ["light", "dark"]) {
    await page.looks(scheme, "reduce");
    for (const where of ["#/", "#/events", ...TABS.map((tab) => `#/vm/${encodeURIComponent(guest)}/${tab}`)]) {
      await go(where);
      await page.run(() => new Promise((wake) => setTimeout(wake, 700)));
      poor.push(...(await page.run(poorContrast, CONTRAST)).map((what) => `${scheme} ${where}: ${what}`));
      if (scheme === "dark") {
        if (where === "#/") await picture("list-dark");
        if (where.endsWith("/truth")) await picture("detail-dark");
        if (where.endsWith("/memory")) {
          await page.run(() => new Promise((wake) => setTimeout(wake, 9000)));
          await picture("memory-dark");
        }
        if (where.endsWith("/processes")) await picture("processes-dark");
      }
    }
  }
  same(poor, [], "poor");
});

await check("who wants no motion gets none", async () => {
  same(await page.run(() => [...document.querySelectorAll("*")].filter((element) => {
    const style = getComputedStyle(element);
    return style.animationName !== "none" || !/^0s(, 0s)*$/.test(style.transitionDuration);
  }).map((element) => element.className)), [], "moving");
});

await check("a telephone, 360 pixels wide, has nothing to scroll sideways", async () => {
  await page.looks("light");
  await page.size(360, 740);
  const wide = [];
  for (const where of ["#/", "#/events", ...TABS.map((tab) => `#/vm/${encodeURIComponent(guest)}/${tab}`)]) {
    await go(where);
    await page.run(() => new Promise((wake) => setTimeout(wake, 700)));
    const found = await page.run(tooWide);
    if (found) wide.push(`${where}: ${found}`);
    await picture(`phone-${where === "#/" ? "list" : where.split("/").at(-1)}`);
  }
  same(wide, [], "too wide");
  await page.size(1280, 800);
});

await check("a lost connection is said in words, and found again", async () => {
  const refuse = (urls) => page.send("Network.setBlockedURLs", { urls });
  await go("#/");
  await refuse(["*/v1/watch*"]);
  await page.send("Page.reload");
  await page.until("the words", 10000, () => /^Not connected.* Trying again in/.test(document.getElementById("link").textContent));
  await picture("offline");
  await refuse([]);
  await page.until("live again", 40000, () => document.getElementById("link").textContent === "Live.");
});

await check("Kill, after it was asked, ends the guest, and Start starts it", async () => {
  await openTab("truth");
  await page.until("the guest's page", 10000, () => document.getElementById("do-kill")?.getAttribute("aria-disabled") === "false");
  await page.run(() => document.getElementById("guest-head").focus());
  await tabTo("#do-kill");
  await page.key("Enter");
  await page.until("the question", 3000, () => document.querySelector("dialog[open]"));
  await page.key("Tab");
  await page.key("Enter");
  await page.until("ended", 10000, stateIs, guest, "ended");
  await openTab("console");
  await page.until("why there is no console", 5000, () => /does not run/.test(document.querySelector(".console .how").textContent));
  await openTab("logs");
  await page.until("what it printed", 10000, () => document.querySelector("#panel-logs .log").textContent.length > 1000);
  await picture("ended");
  await tabTo("#do-start");
  await page.key("Enter");
  await page.until("running", 20000, stateIs, guest, "running");
});

await check("who logs out is out", async () => {
  await page.run(() => document.getElementById("log-out").click());
  await page.until("the login", 5000, () => document.getElementById("token"));
  same(await page.run(() => fetch("/v1/vms").then((answer) => answer.status)), 401, "the answer to who logged out");
});

if (reader) {
  await check("who may only look sees no buttons that do", async () => {
    await page.run(() => document.getElementById("token").focus());
    await logIn(reader);
    await go(`#/vm/${encodeURIComponent(guest)}/truth`);
    await page.until("the guest's page", 10000, () => document.querySelector(".detail .badge.state"));
    same(await page.run(() => document.querySelectorAll(".actions").length), 0, "groups of buttons");
    await openTab("console");
    await page.until("the connection", 10000, () => /to look only/.test(document.querySelector(".console .how").textContent));
    await picture("reader");
  });
}

await check("the policy is as strict as it must be", async () => {
  for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]) want(policy?.includes(part), `${part} is not in ${policy}`);
  want(!/unsafe/.test(policy), policy);
});
await check("nothing broke the policy", async () => same(violations, [], "violations"));
await check("nothing was asked of anybody but the daemon", async () => same(strangers, [], `not of ${origin}`));
await check("no dialog of the browser's came up", async () => same(dialogs, [], "dialogs"));
await check("no script failed", async () => same(errors, [], "errors"));

await browser.stop();
clearTimeout(timer);
console.log(failed === 0 ? "all is well" : `${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
