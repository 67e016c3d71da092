// One model of a compare, on the page: what it says, how fast, how it ended.

import { PartsView, stateOf } from "./answer_view.js";
import { copyButton, eachFrame, h, icon, iconButton } from "./dom.js";
import { Follower } from "./follower.js";
import { Answer, Run } from "./odysseus.js";
import { count, duration, endingOf, lineOf, problemOf, speedOf, waitingFor } from "./words.js";

export class PaneView {
  answer = new Answer();
  /** `waits` for its turn, `live`, or `over`. */
  phase = "waits";
  kept = false;
  #pane;
  #parts;
  #follower;
  #name = h("h2");
  #buttons = h("span", { class: "actions" });
  #state = h("span", { class: "states" });
  #facts = h("span", { class: "facts" });
  #begun = null;
  #firstMs = null;
  #why = null;
  #waiting = null;
  #drawn = "";

  /** *pane* is `{number, session_id, label, model}`; *told* has `stop(view)`, `close(view)`, `keep(view)`. */
  constructor(pane, { blind, revealed }, told) {
    this.#pane = pane;
    this.told = told;
    this.#parts = new PartsView(() => Promise.reject(new Error("a compare has no approvals")));
    const body = h("div", { class: "pane-body", tabindex: "0", role: "region" }, this.#parts.element);
    this.body = body;
    this.#follower = new Follower(body);
    this.element = h(
      "article",
      { class: "pane", "data-pane": String(pane.number) },
      h("header", { class: "pane-head" }, this.#name, this.#buttons),
      body,
      h("footer", { class: "pane-end" }, this.#state, this.#facts),
    );
    this.name(pane.model, { blind, revealed });
    this.draw = eachFrame(() => this.#draw());
    this.draw();
  }

  get number() {
    return this.#pane.number;
  }

  get sessionId() {
    return this.#pane.session_id;
  }

  get label() {
    return this.#pane.label;
  }

  /** What it is called on the page. */
  get title() {
    return this.model ?? `Model ${this.label}`;
  }

  /** Say who it is, as far as that may be known. */
  name(model, { blind, revealed }) {
    this.model = blind && !revealed ? null : model;
    this.mayKeep = !blind || revealed;
    const letter = blind ? [h("span", { class: "letter", "aria-hidden": "true" }, this.label)] : [];
    this.#name.replaceChildren(...letter, this.title);
    this.body.setAttribute("aria-label", `Answer of ${this.title}`);
    this.#drawn = "";
    this.draw?.();
  }

  set won(won) {
    this.element.classList.toggle("won", won);
  }

  /** Read *stream*, a `Pane`, or the `Run` of one that was kept, to its end. */
  async read(stream) {
    this.stream = stream;
    this.phase = "live";
    this.#begun = performance.now();
    this.draw();
    try {
      for await (const event of stream) {
        this.answer.apply(event);
        if (event.type === "delta" || event.type === "reasoning") this.#firstMs ??= performance.now() - this.#begun;
        if (event.type === "connection") this.#connection(event, stream);
        this.draw();
      }
    } catch (error) {
      this.#why = problemOf(error);
    }
    this.phase = "over";
    this.draw();
  }

  #connection(event, stream) {
    this.#waiting = event.state === "waiting" ? waitingFor(event) : null;
    if (event.state === "lost" && !this.kept) this.#why = "The connection was lost, which stopped the model";
    if (event.state === "open" && stream instanceof Run) this.kept = true; // only then does it outlive its client
  }

  /** It won't be read any more. */
  over() {
    this.phase = "over";
    this.draw();
  }

  /** What the service knows of it. While it is being read, the stream knows better. */
  settle({ status, stop_reason, text, usage, timings, html, run_id = null, kept = false }) {
    this.kept ||= kept;
    if (this.phase !== "over" || status === "streaming") return;
    if (status === null) this.#why ??= "Not started";
    else if (!this.answer.ended) {
      // What was streamed to us holds reasoning and tool calls, too; what was saved may be a few words longer.
      const texts = this.answer.parts.filter((part) => part.type === "text");
      const before = this.answer.text.length - (texts.at(-1)?.text.length ?? 0);
      if (texts.length && text.startsWith(this.answer.text)) texts.at(-1).text = text.slice(before);
      else if (text)
        this.answer.apply({ type: "snapshot", content: text, reasoning: "", parts: [{ type: "text", text }] });
      Object.assign(this.answer, { runId: run_id, text, status, stopReason: stop_reason, usage, timings });
      this.#why = null;
    }
    this.#draw();
    if (html && !this.html) this.#parts.showHtml((this.html = html));
  }

  #draw() {
    const waiting =
      this.phase === "waits" ? "Waits for a free connection: a browser opens only six over HTTP/1.1" : this.#waiting;
    if (this.phase === "over" && !this.answer.parts.length) this.#parts.render({ ...EMPTY, epoch: this.answer.epoch });
    else this.#parts.render(this.answer, waiting);
    this.#follower.grown();
    this.#facts.textContent = lineOf(this.#factsNow());
    const drawn = [this.phase, this.answer.status, this.answer.stopReason, this.#why, this.kept, this.mayKeep].join();
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#drawButtons();
    this.#drawState();
  }

  #factsNow() {
    const { answer } = this;
    const length = answer.text ? [count(answer.text.length, "character")] : [];
    if (answer.ended && answer.timings) return [...speedOf(answer), ...length];
    const first = this.#firstMs === null ? [] : [`${duration(this.#firstMs)} to first token`];
    return [...first, ...length];
  }

  #drawButtons() {
    const buttons = [];
    if (this.phase === "live") buttons.push(labelled("stop", "Stop", `Stop ${this.title}`, () => this.told.stop(this)));
    if (this.phase === "over" && this.answer.text) buttons.push(copyButton(() => this.answer.text, "Copy the answer"));
    if (this.mayKeep && !this.kept && this.answer.status !== "waiting")
      buttons.push(labelled("pin", "Keep", `Keep ${this.title} as a chat`, () => this.told.keep(this)));
    buttons.push(iconButton("close", `Close ${this.title}`, () => this.told.close(this)));
    const had = this.#buttons.contains(document.activeElement);
    this.#buttons.replaceChildren(...buttons);
    if (had) buttons[0].focus();
  }

  #drawState() {
    const { answer } = this;
    const states = [];
    if (this.kept) states.push(h("a", { class: "kept", href: `#/chat/${this.sessionId}` }, "Kept: open the chat"));
    const ending = endingOf(answer);
    if (ending) states.push(stateOf(ending));
    else if (answer.status === "done") states.push(stateOf({ text: "Done", tone: null }));
    else if (this.phase === "live") states.push(stateOf({ text: "Streaming", tone: "live" }));
    if (answer.error) states.push(problemOf(answer.error));
    if (this.#why && !answer.ended) states.push(stateOf({ text: this.#why, tone: "cut" }));
    this.#state.replaceChildren(...states);
  }
}

const EMPTY = { parts: [], ended: true };

function labelled(name, word, label, click) {
  const props = { class: `quiet-button ${name}`, type: "button", title: label, "aria-label": label, on: { click } };
  return h("button", props, icon(name), word);
}
