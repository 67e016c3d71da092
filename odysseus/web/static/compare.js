// A compare: one question, several models side by side. Their streams are open only while this is looked at: leaving
// stops them, but for those that were kept.

import { Chooser } from "./chooser.js";
import { Composer } from "./composer.js";
import { h } from "./dom.js";
import { PaneView } from "./pane.js";
import { when } from "./words.js";

const BROWSER_CONNECTIONS = 6; // to one server, over HTTP/1.1; one stays free for what isn't a stream
const LOOK_AGAIN_MS = 1000;

const find = (id) => document.getElementById(id);

export class CompareView {
  #client;
  #models;
  #announcer;
  #told;
  #composer;
  #chooser;
  /** Replaced when the reader goes elsewhere, as in a chat. */
  #place = { id: null, views: [] };

  /** *told* has `began(compareId)`, `titled(title)` and `kept()`. */
  constructor(client, models, announcer, told) {
    this.#client = client;
    this.#models = models;
    this.#announcer = announcer;
    this.#told = told;
    this.#composer = new Composer(find("compare-composer"), {
      send: (text) => this.send(text),
      stop: () => this.stopAll(),
      may: () => this.#chooser?.isEnough ?? false,
    });
    this.#chooser = new Chooser(() => this.#composer.update());
  }

  /** Show a compare, or with null the empty page that a new one begins on. */
  async open(id) {
    this.leave();
    const place = (this.#place = { id, views: [] });
    this.#composer.say(null);
    this.#composer.runs = false;
    find("compare").hidden = id === null;
    find("compare-welcome").hidden = id !== null;
    find("panes").replaceChildren();
    find("verdict").hidden = true;
    if (id !== null) return this.#load(place);
    this.#told.titled("Compare");
    await this.#showRecent(place);
  }

  /** Whoever leaves stops the models. */
  leave() {
    for (const view of this.#place.views) view.stream?.close();
    this.#place = { id: null, views: [] };
  }

  focus() {
    this.#composer.focus();
  }

  showModels() {
    this.#chooser.show(this.#models.all);
  }

  async send(message) {
    this.leave();
    const place = (this.#place = { id: null, views: [] });
    const blind = find("blind").checked;
    this.#composer.say(null);
    let made;
    try {
      const asked = { message, models: this.#chooser.chosen, ...(blind ? { blind } : {}) };
      made = await this.#client.compare(asked);
    } catch (error) {
      if (place === this.#place) this.#composer.say(error);
      return;
    }
    if (place !== this.#place) return;
    this.#composer.text = "";
    this.#told.began(made.compare_id);
    const panes = made.panes.map((pane) => ({
      number: pane.number,
      session_id: pane.sessionId,
      label: pane.label,
      model: pane.model,
    }));
    this.#show(place, { compare_id: made.compare_id, prompt: message, blind, revealed: !blind, winner: null, panes });
    this.#announcer.say(`${panes.length} models answer.`);
    await this.#readAll(place, made.panes);
  }

  async stopAll() {
    if (!this.#composer.runs) return;
    this.#composer.stopping();
    await Promise.all(this.#place.views.map((view) => this.#stop(view)));
  }

  /** Start the panes, as many at once as the browser has connections for; the others when one of them has ended. */
  async #readAll(place, panes) {
    const waiting = panes.map((pane, number) => [pane, place.views[number]]);
    const most = multiplexed() ? panes.length : BROWSER_CONNECTIONS - 1;
    this.#composer.runs = true;
    const next = async () => {
      while (waiting.length && place === this.#place) {
        const [pane, view] = waiting.shift();
        if (view.phase === "waits") await this.#read(place, view, pane);
      }
    };
    await Promise.all(Array.from({ length: most }, next));
    if (place === this.#place) this.#composer.runs = false;
  }

  async #read(place, view, stream) {
    await view.read(stream);
    if (place !== this.#place) return;
    if (view.kept && !view.answer.ended) await view.read(this.#client.resume(view.sessionId)); // its run has gone on
    if (place !== this.#place) return;
    this.#announcer.say(`${view.title} has ended.`);
    await view.stopped;
    await this.#settle(place);
  }

  async #stop(view) {
    if (view.phase === "waits") view.over();
    else if (view.phase === "live") {
      // Closing is the stop; the call is for proxies that keep a close to themselves, and tells when it is saved.
      view.stopped = view.stream.stop().catch(() => null);
      await view.stopped;
    }
  }

  /** What was kept goes on without its pane. */
  async #close(view) {
    const { views } = this.#place;
    const stopped = view.kept ? view.stream?.close() : this.#stop(view);
    const after = view.element.nextElementSibling ?? view.element.previousElementSibling;
    view.element.remove();
    find("panes").dataset.count = find("panes").children.length;
    (after?.querySelector(".pane-head button") ?? find("compare-scroll")).focus();
    await stopped;
    if (views === this.#place.views) this.#showVerdict(this.#place);
  }

  async #keep(view) {
    const place = this.#place;
    try {
      await this.#client.keep(place.id, view.number);
    } catch (error) {
      if (place === this.#place) this.#composer.say(error);
      return;
    }
    view.kept = true;
    view.draw();
    this.#told.kept();
  }

  async #load(place) {
    let found;
    try {
      found = await this.#results(place);
    } catch (error) {
      if (place !== this.#place) return;
      this.#told.titled("Compare");
      find("compare").hidden = true;
      this.#composer.say(error);
      return;
    }
    if (place !== this.#place) return;
    this.#show(place, found);
    found.panes.forEach((pane, number) => {
      const view = place.views[number];
      view.over();
      view.settle(pane);
      if (pane.status === "streaming") this.#follow(place, view);
    });
    this.#showVerdict(place);
  }

  /** A pane that streams although its client has gone is being saved, or was kept: then it can be followed. */
  async #follow(place, view) {
    await view.read(this.#client.resume(view.sessionId));
    if (place === this.#place) await this.#settle(place);
  }

  #results({ id }) {
    return this.#client.call("GET", `/api/compare/${encodeURIComponent(id)}`);
  }

  #show(place, { compare_id, prompt, blind = false, revealed = true, winner = null, panes }) {
    Object.assign(place, { id: compare_id, blind, revealed, winner });
    place.views = panes.map((pane, number) => {
      const label = pane.label ?? String.fromCharCode(65 + number);
      return new PaneView({ ...pane, number, label }, place, {
        stop: (view) => this.#stop(view),
        close: (view) => this.#close(view),
        keep: (view) => this.#keep(view),
      });
    });
    find("compare").hidden = false;
    find("compare-welcome").hidden = true;
    find("compare-prompt").textContent = prompt;
    find("panes").dataset.count = panes.length;
    find("panes").replaceChildren(...place.views.map((view) => view.element));
    find("verdict").hidden = true;
    this.#told.titled(blind ? "Blind compare" : "Compare");
  }

  /** Get what only the service knows: how it was saved, and the rendered answers. */
  async #settle(place) {
    const found = await this.#results(place).catch(() => null);
    if (place !== this.#place) return;
    found?.panes.forEach((pane, number) => place.views[number].settle(pane));
    this.#showVerdict(place);
    const unsaved = place.views.some(
      (view, number) => view.phase === "over" && found?.panes[number].status === "streaming",
    );
    if (unsaved && !place.again) {
      place.again = setTimeout(() => {
        place.again = 0;
        if (place === this.#place) this.#settle(place);
      }, LOOK_AGAIN_MS);
    }
  }

  #showVerdict(place) {
    const box = find("verdict");
    box.hidden = !place.blind || (!place.revealed && !place.views.every((view) => view.answer.ended));
    if (box.hidden) return;
    if (place.revealed) return this.#showWinner(place, box);
    const vote = (winner) => this.#vote(place, winner);
    const choices = place.views.map((view) => [view.label, view.number]);
    const buttons = [...choices, ["Tie", "tie"]].map(([text, winner]) =>
      h("button", { class: "button", type: "button", on: { click: () => vote(winner) } }, text),
    );
    box.replaceChildren(h("p", {}, "Which answer is best?"), ...buttons);
  }

  #showWinner(place, box) {
    const winner = place.views.find((view) => view.number === place.winner);
    for (const view of place.views) view.won = view === winner;
    const words = winner ? `You chose ${winner.label}: ${winner.title}` : "You called it a tie";
    box.replaceChildren(h("p", {}, words), h("a", { class: "button", href: "/leaderboard" }, "Leaderboard"));
  }

  async #vote(place, winner) {
    try {
      const told = await this.#client.vote(place.id, winner);
      if (place !== this.#place) return;
      Object.assign(place, { revealed: true, winner: told.winner });
      for (const pane of told.panes) place.views[pane.pane].name(pane.model, place);
      this.#composer.say(null);
      this.#showVerdict(place);
      this.#announcer.say(find("verdict").firstChild.textContent);
    } catch (error) {
      if (place !== this.#place) return;
      if (error.code === "already_voted") await this.open(place.id); // in another tab
      this.#composer.say(error);
    }
  }

  async #showRecent(place) {
    const found = await this.#client.call("GET", "/api/compare?limit=8").catch(() => null);
    if (place !== this.#place) return;
    const compares = found?.compares ?? [];
    find("recent").hidden = !compares.length;
    find("recent-list").replaceChildren(
      ...compares.map((it) => {
        const note = it.blind && it.winner === null ? "not voted" : when(it.created_at);
        const link = h("a", { href: `#/compare/${it.compare_id}` }, h("span", {}, it.prompt), h("span", {}, note));
        return h("li", {}, link);
      }),
    );
  }
}

/** Whether the page came over HTTP/2 or later, where all streams share a connection. */
function multiplexed() {
  const [page] = performance.getEntriesByType("navigation");
  return /^h[23]/.test(page?.nextHopProtocol ?? "");
}
