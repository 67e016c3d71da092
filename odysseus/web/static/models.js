// The models there are, and the last choice among them.

import { h, kept } from "./dom.js";

export class Models {
  all = [];
  #client;
  #select;

  constructor(client, select) {
    this.#client = client;
    this.#select = select;
    select.addEventListener("change", () => kept.set("model", select.value));
  }

  /** Ask for them, once. Throws `ApiError`. */
  async load() {
    if (this.all.length) return;
    const { models } = await this.#client.call("GET", "/api/models");
    this.all = models.map((model) => model.id);
    this.#select.replaceChildren(...this.all.map((id) => h("option", { value: id }, id)));
    this.choose(kept.get("model"));
  }

  /** Null where none is known; then the service takes its own default. */
  get chosen() {
    return this.#select.value || null;
  }

  choose(id) {
    if (this.all.includes(id)) this.#select.value = id;
  }
}
