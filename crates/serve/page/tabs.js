// Tabs, as WAI-ARIA describes them: arrows go from tab to tab, Enter and Space choose, Tab leads into the panel.

import { make } from "./text.js";

/** `list` is `[{id, word, panel}]`; `chosen(id)` is called when the person chooses another one. */
export class Tabs {
  constructor(label, list, chosen) {
    this.list = list;
    this.tabs = list.map(({ id, word }, index) => make("button", {
      type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, tabindex: "-1",
      click: () => chosen(id), keydown: (event) => this.move(event, index),
    }, word));
    this.panels = list.map(({ id, panel }) => make("div", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, hidden: true }, panel));
    this.node = make("div", { class: "tabs" }, make("div", { role: "tablist", "aria-label": label }, ...this.tabs), ...this.panels);
  }

  show(id) {
    this.list.forEach((one, index) => {
      const here = one.id === id;
      this.tabs[index].setAttribute("aria-selected", String(here));
      this.tabs[index].tabIndex = here ? 0 : -1;
      this.panels[index].hidden = !here;
      if (here) requestAnimationFrame(() => this.reveal(this.tabs[index]));
    });
  }

  // Not `scrollIntoView`: that one would scroll the page, too.
  reveal(tab) {
    const row = tab.parentElement;
    row.scrollLeft += Math.min(0, tab.getBoundingClientRect().left - row.getBoundingClientRect().left - 8)
      + Math.max(0, tab.getBoundingClientRect().right - row.getBoundingClientRect().right + 8);
  }

  move(event, index) {
    const last = this.tabs.length - 1;
    const next = { ArrowRight: index === last ? 0 : index + 1, ArrowLeft: index === 0 ? last : index - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.tabs[next].focus();
    this.reveal(this.tabs[next]);
  }
}
