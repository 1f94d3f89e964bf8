// Questions to the person, in dialogs of the page. Enter answers, Escape does nothing, and the focus goes back to where it was.

import { make } from "./text.js";

let numbers = 0;

function open(title, body, yes, { danger = false } = {}) {
  const id = `dialog-${++numbers}`;
  const no = make("button", { type: "submit", value: "", formnovalidate: true }, "Cancel");
  const go = make("button", { type: "submit", value: "yes", class: danger ? "danger" : "main" }, yes);
  const form = make("form", { method: "dialog" }, make("h2", { id: `${id}-title` }, title), ...body, make("div", { class: "choices" }, no, go));
  const dialog = make("dialog", { "aria-labelledby": `${id}-title`, class: danger ? "grave" : "" }, form);
  document.body.append(dialog);
  dialog.showModal();
  // What cannot be undone is not what a hasty Enter does.
  if (danger) no.focus();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(dialog.returnValue === "yes" ? form : null);
    });
  });
}

/** Whether the person wants it. */
export async function confirm(title, text, yes) {
  return (await open(title, [make("p", {}, text)], yes, { danger: true })) !== null;
}

/** Fields to be filled in; gives those that have something in them, or `null`. `fields` are `{name, label, hint, now}`. */
export async function fields(title, text, list, yes) {
  const inputs = list.map((field) => {
    const hint = make("span", { class: "hint", id: `hint-${field.name}` }, field.now ? `${field.hint}; now ${field.now}` : field.hint);
    const input = make("input", { type: "text", name: field.name, id: `field-${field.name}`, autocomplete: "off", spellcheck: "false", "aria-describedby": hint.id });
    return make("p", { class: "field" }, make("label", { for: input.id }, field.label), input, hint);
  });
  // A form's first button is what Enter presses, and that would be Cancel: so Enter in a field is told what to do.
  const form = await open(title, [make("p", {}, text), ...inputs.map((field) => {
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
      event.preventDefault();
      event.target.form.closest("dialog").close("yes");
    });
    return field;
  })], yes);
  if (!form) return null;
  const said = list.map((field) => [field.name, form.elements[field.name].value.trim()]).filter(([, value]) => value !== "");
  return Object.fromEntries(said);
}
