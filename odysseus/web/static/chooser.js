// Which models a compare asks: two to eight of them, as they were chosen last.

import { h, kept } from "./dom.js";

const LEAST = 2;
const MOST = 8;

export class Chooser {
  #box = document.getElementById("compare-models");
  #count = document.getElementById("chosen");
  #legend = this.#box.querySelector("legend");
  #changed;

  /** *changed* is called when the choice has. */
  constructor(changed) {
    this.#changed = changed;
    this.#box.addEventListener("change", () => {
      kept.set("models", JSON.stringify(this.chosen));
      this.#update();
    });
  }

  get chosen() {
    return [...this.#box.querySelectorAll(":checked")].map((input) => input.value);
  }

  get isEnough() {
    return this.chosen.length >= LEAST;
  }

  show(models) {
    if (!models.length) return;
    let last = [];
    try {
      last = JSON.parse(kept.get("models") ?? "[]").filter((id) => models.includes(id));
    } catch {
      // Somebody else's words under our name.
    }
    if (last.length < LEAST) last = models.slice(0, LEAST);
    const chips = models.map((id) => {
      const input = h("input", { type: "checkbox", value: id });
      input.checked = last.includes(id);
      return h("label", {}, input, h("span", {}, id));
    });
    this.#box.replaceChildren(this.#legend, ...chips);
    this.#update();
  }

  #update() {
    const { length } = this.chosen;
    for (const input of this.#box.querySelectorAll("input")) input.disabled = length >= MOST && !input.checked;
    this.#count.textContent = length < LEAST ? "Choose two at least" : "";
    this.#changed();
  }
}
