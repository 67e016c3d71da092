// The list of chats: search, rename, delete, and which of them are being answered just now.

import { h, iconButton } from "./dom.js";
import { dayOf, problemOf } from "./words.js";

const PAGE = 40;
const BUSY_MS = 4000; // between two looks while something runs in the background
const IDLE_MS = 30_000;
const TYPING_MS = 200;

export class SessionList {
  #client;
  #element;
  #search;
  #confirm;
  #told;
  #sessions = [];
  #more = false;
  #limit = PAGE;
  #current = null;
  #editing = false;
  #doomed = null; // what the dialog asks about
  #timer = 0;
  #asked = 0;
  #drawn = "";

  /** *told* has `deleted(id)`, `renamed(session)` and `seen(sessions)`. */
  constructor(client, { element, search, confirm }, told) {
    this.#client = client;
    this.#element = element;
    this.#search = search;
    this.#confirm = confirm;
    this.#told = told;
    search.addEventListener("input", () => {
      this.#limit = PAGE;
      this.#asked += 1; // a list on its way was asked for without these words, and would put the next look off
      this.#soon(TYPING_MS);
    });
    confirm.querySelector("form").addEventListener("submit", ({ submitter }) => {
      if (submitter.value === "yes") this.#delete(this.#doomed);
    });
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    addEventListener("focus", () => this.refresh());
  }

  set current(id) {
    this.#current = id;
    this.#draw();
  }

  /** Ask for the list again, and from then on now and then. */
  async refresh() {
    const asked = (this.#asked += 1);
    const query = new URLSearchParams({ limit: this.#limit });
    const words = this.#search.value.trim();
    if (words) query.set("q", words);
    let problem = null;
    try {
      const { sessions } = await this.#client.call("GET", `/api/sessions?${query}`);
      if (asked !== this.#asked) return; // a later one has been asked for meanwhile
      this.#sessions = sessions;
      this.#more = sessions.length === this.#limit;
      this.#told.seen(sessions);
    } catch (error) {
      if (asked !== this.#asked) return;
      problem = error;
    }
    this.#draw(problem);
    this.#soon(this.#sessions.some((session) => session.active_run) ? BUSY_MS : IDLE_MS);
  }

  #soon(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (document.hidden ? this.#soon(IDLE_MS) : this.refresh()), ms);
  }

  #draw(problem = null) {
    if (this.#editing) return;
    const what = JSON.stringify([this.#sessions, this.#more, this.#current, problem?.code, this.#search.value]);
    if (what === this.#drawn) return;
    this.#drawn = what;
    const focused = this.#element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.#element.replaceChildren(...this.#groups(), ...this.#end(problem));
    if (focused) this.#element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  *#groups() {
    for (const [day, sessions] of Map.groupBy(this.#sessions, (session) => dayOf(session.updated_at))) {
      yield h("h2", {}, day);
      yield h(
        "ul",
        {},
        sessions.map((session) => this.#row(session)),
      );
    }
  }

  *#end(problem) {
    if (problem && problem.status !== 401) yield h("p", { class: "none" }, problemOf(problem));
    else if (!this.#sessions.length)
      yield h("p", { class: "none" }, this.#search.value ? "Nothing found." : "No chats yet.");
    if (this.#more)
      yield h("button", { class: "quiet-button", type: "button", on: { click: () => this.#showMore() } }, "Show more");
  }

  #showMore() {
    this.#limit = Math.min(this.#limit + PAGE, 500);
    this.refresh();
  }

  #row(session) {
    const name = titleOf(session);
    const current = session.id === this.#current;
    const link = h(
      "a",
      { href: `#/chat/${session.id}`, title: name, "aria-current": current ? "page" : null, "data-key": session.id },
      name,
    );
    const runs = session.active_run
      ? h("span", { class: "runs", title: "Being answered" }, h("span", { class: "hidden" }, "being answered"))
      : null;
    const rename = iconButton("pen", `Rename ${name}`, () => this.#rename(row, session));
    const remove = iconButton("bin", `Delete ${name}`, () => this.#askToDelete(session));
    rename.dataset.key = `rename ${session.id}`;
    remove.dataset.key = `delete ${session.id}`;
    const row = h(
      "li",
      { class: "session", "data-current": current, "data-session": session.id },
      link,
      runs,
      rename,
      remove,
    );
    return row;
  }

  #rename(row, session) {
    const input = h("input", { type: "text", "aria-label": "New title", maxlength: "200" });
    input.value = session.title ?? "";
    this.#editing = true;
    const leave = async (keep) => {
      if (!this.#editing) return;
      this.#editing = false;
      this.#drawn = "";
      const title = input.value.trim();
      if (keep && title && title !== session.title) {
        try {
          this.#told.renamed(await this.#client.call("PATCH", `/api/sessions/${session.id}`, { title }));
        } catch (error) {
          return this.#draw(error);
        }
      }
      await this.refresh();
      this.#element.querySelector(`[data-key="${session.id}"]`)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") leave(true);
      if (event.key === "Escape") {
        event.stopPropagation(); // it isn't meant for the answer
        leave(false);
      }
    });
    input.addEventListener("blur", () => leave(true));
    row.replaceChildren(input);
    input.focus();
    input.select();
  }

  #askToDelete(session) {
    this.#doomed = session.id;
    this.#confirm.querySelector("#confirm-text").textContent = titleOf(session);
    this.#confirm.showModal();
  }

  async #delete(id) {
    try {
      await this.#client.call("DELETE", `/api/sessions/${id}`);
    } catch (error) {
      if (error.status !== 404) return this.#draw(error);
    }
    this.#told.deleted(id);
    await this.refresh();
  }
}

export function titleOf(session) {
  return session.title || "Untitled chat";
}
