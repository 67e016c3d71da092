// Where a message is written: Enter sends, Shift+Enter makes a line, Esc stops.

import { problemOf } from "./words.js";

export class Composer {
  #area;
  #send;
  #stop;
  #notice;

  /** *send* is called with the text, *stop* without anything. *may* says whether there is enough to send. */
  constructor(form, { send, stop, may = () => true }) {
    this.#area = form.querySelector("textarea");
    this.#send = form.querySelector("button[type=submit]");
    this.#stop = form.querySelector("button.stop");
    this.#notice = form.querySelector(".notice");
    this.may = may;
    this.#area.addEventListener("input", () => this.update());
    this.#area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#area.value;
      if (this.#send.disabled || this.#stop.hidden === false) return;
      this.say(null);
      send(text);
    });
    this.#stop.addEventListener("click", stop);
    this.update();
  }

  get text() {
    return this.#area.value;
  }

  set text(text) {
    this.#area.value = text;
    this.update();
  }

  /** While something *runs*, the button stops it. */
  set runs(runs) {
    const focused = document.activeElement === this.#send || document.activeElement === this.#stop;
    this.#send.hidden = runs;
    this.#stop.hidden = !runs;
    this.#stop.disabled = false;
    if (focused) this.focus();
  }

  get runs() {
    return !this.#stop.hidden;
  }

  /** It has been asked to stop, and will be. */
  stopping() {
    this.#stop.disabled = true;
  }

  focus() {
    this.update(); // what is hidden has no height
    this.#area.focus({ preventScroll: true });
  }

  /** Tell of a *problem*, an error or words; null takes it back. */
  say(problem) {
    this.#notice.hidden = problem === null;
    this.#notice.textContent = problem === null ? "" : typeof problem === "string" ? problem : problemOf(problem);
  }

  update() {
    this.#send.disabled = !this.#area.value.trim() || !this.may();
    this.#area.style.height = "auto";
    this.#area.style.height = `${this.#area.scrollHeight}px`;
  }
}
