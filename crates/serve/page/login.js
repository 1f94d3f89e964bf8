// Who comes with a token gets a cookie for it, which no script can read.

import { ask } from "./api.js";
import { make, shown } from "./text.js";

export class Login {
  constructor(entered) {
    this.field = make("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", spellcheck: "false", required: true, "aria-describedby": "token-hint" });
    this.said = make("p", { class: "said bad-text", role: "alert" });
    const form = make("form", { class: "login", submit: (event) => { event.preventDefault(); this.enter(entered); } },
      make("h1", { id: "login-head" }, "Who are you?"),
      make("p", { class: "field" }, make("label", { for: "token" }, "Token"), this.field,
        make("span", { class: "hint", id: "token-hint" }, "`mother token add NAME` on the host makes one. It is exchanged for a cookie and kept nowhere.")),
      make("div", { class: "choices" }, make("button", { type: "submit", class: "main" }, "Log in")), this.said);
    this.node = make("section", { class: "page", "aria-labelledby": "login-head" }, form);
  }

  async enter(entered) {
    this.said.textContent = "";
    try {
      const session = await ask("POST", "/v1/session", { token: this.field.value.trim() }, { quiet: true });
      this.field.value = "";
      entered(session);
    } catch (error) {
      this.said.textContent = error.status === 401 ? "This token is not known here, or its time is over." : `That did not work: ${shown(error.words())}`;
      this.field.select();
    }
  }
}
