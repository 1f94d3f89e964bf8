// What can be done to a guest: buttons, for who may press them.

import { Refused, act } from "./api.js";
import { confirm, fields } from "./ask.js";
import { make, shown } from "./text.js";

const ACTIONS = [
  { id: "start", word: "Start", when: ["ended", "died", "declared"], only: "a guest that does not run" },
  { id: "pause", word: "Pause", when: ["running"], only: "a guest that runs" },
  { id: "resume", word: "Resume", when: ["paused"], only: "a guest that is paused" },
  { id: "limit", word: "Limit \u2026", when: ["running", "paused", "waiting"], only: "a guest that runs" },
  {
    id: "restart", word: "Restart \u2026", when: ["running", "paused", "waiting", "stopping", "unresponsive"], only: "a guest that runs", danger: true,
    asks: (name) => [`Restart ${name}?`, "The guest is stopped and started again. Whoever uses it is cut off.", `Restart ${name}`],
  },
  {
    id: "stop", word: "Stop \u2026", when: ["starting", "running"], only: "a guest that runs", danger: true,
    asks: (name) => [`Stop ${name}?`, "Its power button is pressed. The guest shuts down by itself, as far as it wants to.", `Stop ${name}`],
  },
  {
    id: "kill", word: "Kill \u2026", when: ["starting", "running", "paused", "waiting", "stopping", "unresponsive"], only: "a guest that runs", danger: true,
    asks: (name) => [`Kill ${name}?`, "The guest is ended at once, as if its power was cut. What it has not written to its disks is lost.", `Kill ${name}`],
  },
];

const LIMITS = [
  { name: "resident", label: "Memory that the host holds", hint: "100M, 10% or none" },
  { name: "cpu_limit", label: "CPU time", hint: "50%, 150% or none; of one core" },
  { name: "cpu_weight", label: "CPU weight", hint: "1 to 10000; 100 if nothing is said" },
  { name: "disk_rate", label: "Disks, bytes per second", hint: "20M or none" },
  { name: "net_rate", label: "Network, bytes per second each way", hint: "5M or none" },
];

/** The buttons of one guest. `limits` asks for its limits of now. */
export class Actions {
  constructor(name, limits) {
    this.name = name;
    this.limits = limits;
    this.state = "";
    this.busy = null;
    this.said = make("p", { class: "said", role: "status", "aria-live": "polite" });
    this.buttons = new Map(ACTIONS.map((action) => [action.id, make("button", {
      type: "button", id: `do-${action.id}`, class: action.danger ? "danger" : "", click: () => this.press(action),
    }, action.word)]));
    this.node = make("div", { class: "actions", role: "group", "aria-label": `What can be done to ${shown(name)}` }, ...this.buttons.values(), this.said);
  }

  update(vm) {
    this.state = vm.state;
    for (const action of ACTIONS) {
      // Buttons that cannot be pressed can still be reached: a button that vanished would take the focus along.
      const can = action.when.includes(this.state) && this.busy === null;
      const button = this.buttons.get(action.id);
      button.setAttribute("aria-disabled", can ? "false" : "true");
      button.title = action.when.includes(this.state) ? "" : `for ${action.only}`;
    }
  }

  async press(action) {
    if (this.busy !== null) {
      this.tell(`${this.busy} is not done yet.`);
      return;
    }
    if (!action.when.includes(this.state)) {
      this.tell(`${plain(action)} is for ${action.only}; this one is ${this.state}.`);
      return;
    }
    let body = {};
    if (action.asks && !(await confirm(...action.asks(shown(this.name))))) return;
    if (action.id === "limit") {
      const now = (await this.limits()) ?? {};
      const list = LIMITS.map((field) => ({ ...field, now: now[field.name] === null || now[field.name] === undefined ? "" : shown(now[field.name]) }));
      body = await fields(`Limits of ${shown(this.name)}`, "What is left empty stays as it is. The guest is not told.", list, "Set limits");
      if (body === null) return;
      if (Object.keys(body).length === 0) {
        this.tell("Nothing was filled in, so nothing is changed.");
        return;
      }
      // A number, where it is one; what is none is refused by the daemon in words.
      if (/^\d+$/.test(body.cpu_weight ?? "")) body.cpu_weight = Number(body.cpu_weight);
    }
    this.busy = plain(action);
    this.update({ state: this.state });
    this.tell(`${this.busy}: under way.`);
    try {
      await act(this.name, action.id, body);
      this.tell(`${this.busy}: done.`);
    } catch (error) {
      this.tell(`${this.busy} failed: ${shown(error instanceof Refused ? error.words() : error.message)}`, true);
    } finally {
      this.busy = null;
      this.update({ state: this.state });
    }
  }

  tell(text, bad = false) {
    this.said.textContent = text;
    this.said.classList.toggle("bad-text", bad);
  }
}

function plain(action) {
  return action.word.replace(" \u2026", "");
}
