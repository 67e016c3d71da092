// Who asks, where the service wants to know: a token becomes a cookie that scripts can't read.

import { kept } from "./dom.js";
import { problemOf } from "./words.js";

export class Login {
  #dialog = document.getElementById("login");
  #button = document.getElementById("logout");

  /** *done* is called when somebody has logged in. */
  constructor(client, done) {
    const token = document.getElementById("token");
    const problem = document.getElementById("login-problem");
    this.#button.hidden = kept.get("in") === null;
    this.#dialog.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      problem.textContent = "";
      try {
        await client.call("POST", "/api/login", { token: token.value.trim() });
      } catch (error) {
        problem.textContent = error.status === 401 ? "The service doesn't know this token." : problemOf(error);
        return;
      }
      token.value = "";
      kept.set("in", "yes");
      this.#button.hidden = false;
      this.#dialog.close();
      done();
    });
    this.#button.addEventListener("click", async () => {
      await client.call("POST", "/api/logout").catch(() => null);
      kept.set("in", null);
      location.assign("/");
      location.reload();
    });
  }

  ask() {
    if (!this.#dialog.open) this.#dialog.showModal();
  }
}
