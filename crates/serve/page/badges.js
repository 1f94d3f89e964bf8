// Small marks that say how something stands. Each has a word, a mark and a colour, so that none of the three is needed.

import { make } from "./text.js";
import { standing, state, verdict } from "./words.js";

function badge({ word, mark, tone }, more = "") {
  return make("span", { class: `badge ${tone} ${more}` }, make("span", { class: "mark", "aria-hidden": "true" }, mark), word);
}

/** Nothing is said of one that does not run and of which nothing was seen: its state says it. */
export function standingBadge(vm) {
  const name = vm.insight?.standing ?? null;
  return name === null && !state(vm.state).live ? null : badge(standing(name), "standing");
}

export function stateBadge(vm) {
  const what = state(vm.state);
  const element = badge({ word: vm.state, mark: what.mark, tone: what.tone }, "state");
  if (what.means) element.title = what.means;
  return element;
}

export function verdictBadge(name) {
  return badge(verdict(name), "verdict");
}
