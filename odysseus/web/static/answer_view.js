// One answer on the page: its reasoning, its tool calls, its text, and how it ended.

import { copyButton, h, icon, iconButton } from "./dom.js";
import { rendered } from "./markdown.js";
import { StreamText } from "./stream_text.js";
import { count, duration, endingOf, lineOf, problemOf, speedOf, waitingFor } from "./words.js";

/**
 * The parts of an `Answer`, kept up to date by `render`. *decide* is called with a call's id and `allow` or `deny`,
 * and returns a promise.
 */
export class PartsView {
  element = h("div", { class: "body" });
  #views = [];
  #decide;
  #wait = h("p", { class: "wait" });
  #epoch = 0;
  #html = null;

  constructor(decide) {
    this.#decide = decide;
  }

  /** Show what *answer* holds by now; *waiting* is why nothing comes, in words, or null. */
  render(answer, waiting = null) {
    if (this.#html) return;
    if (answer.epoch !== this.#epoch && !this.#fits(answer)) this.#clear();
    this.#epoch = answer.epoch;
    answer.parts.forEach((part, number) => {
      const view = (this.#views[number] ??= this.#add(part));
      view.render(part, answer, number === answer.parts.length - 1);
    });
    this.#renderWait(answer, waiting);
  }

  /** Put the rendered answer in the place of its text. */
  showHtml(html) {
    this.#html = rendered(html);
    const texts = this.#views.filter((view) => view.type === "text");
    const last = texts.at(-1);
    if (last) last.element.replaceWith(this.#html);
    else this.element.append(this.#html);
    for (const view of texts) view.element.remove();
  }

  /** Whether what is shown can become *answer* by adding to it. */
  #fits({ parts, ended }) {
    if (ended && parts.length < this.#views.length) return false;
    return this.#views.every((view, number) => !parts[number] || parts[number].type === view.type);
  }

  #clear() {
    for (const view of this.#views) view.element.remove();
    this.#views = [];
  }

  #add(part) {
    const view =
      part.type === "tool_call" ? new ToolView(this.#decide) : new (part.type === "text" ? TextView : ThoughtView)();
    this.#wait.remove(); // it stands last
    this.element.append(view.element);
    return view;
  }

  #renderWait(answer, waiting) {
    const last = answer.parts.at(-1);
    const silent = !answer.ended && (!last || (last.type === "tool_call" && last.result));
    if (!waiting && !silent) return this.#wait.remove();
    if (!this.element.contains(this.#wait)) this.element.append(this.#wait);
    const words = waiting ?? "";
    if (this.#wait.dataset.words === words) return;
    this.#wait.dataset.words = words;
    const dots = h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.#wait.replaceChildren(dots, words || h("span", { class: "hidden" }, "The answer is awaited"));
  }
}

class TextView {
  type = "text";
  #text = new StreamText();
  element = this.#text.element;

  render(part, answer) {
    this.#text.show(part.text, answer.epoch, answer.ended);
  }
}

class ThoughtView {
  type = "reasoning";
  #text = new StreamText();
  #label = h("span");
  #details = h(
    "details",
    { class: "fold reasoning" },
    h("summary", {}, icon("thought"), this.#label, withClass(icon("chevron"), "turn")),
    h("div", { class: "inside" }, this.#text.element),
  );
  element = this.#details;

  render(part, answer, isLast) {
    const label = isLast && !answer.ended ? "Thinking…" : "Reasoning";
    if (this.#label.textContent !== label) this.#label.textContent = label;
    this.#text.show(part.text, answer.epoch, answer.ended);
  }
}

const WORDS = { cut: "stopped", waits: "wants your approval", works: "working…" };

class ToolView {
  type = "tool_call";
  #decide;
  #name = h("code");
  #end = h("span", { class: "end" });
  #inside = h("div", { class: "inside" });
  #state = null;
  element = h(
    "details",
    { class: "fold tool" },
    h("summary", {}, icon("tool"), this.#name, this.#end, withClass(icon("chevron"), "turn")),
    this.#inside,
  );

  constructor(decide) {
    this.#decide = decide;
  }

  render(call, answer) {
    const state = call.result ? "over" : answer.ended ? "cut" : call.waits ? "waits" : "works";
    if (this.#state === state) return;
    this.#state = state;
    this.#name.textContent = call.name;
    this.element.classList.toggle("failed", call.result?.is_error ?? false);
    this.#end.textContent = call.result ? outcome(call.result) : WORDS[state];
    this.#inside.replaceChildren(h("h3", {}, "Arguments"), given(JSON.stringify(call.arguments, null, 2)));
    if (state === "waits") {
      this.element.open = true;
      this.#inside.append(this.#approval(call.call_id));
    }
    if (call.result)
      this.#inside.append(h("h3", {}, call.result.is_error ? "Error" : "Result"), given(call.result.output));
  }

  #approval(callId) {
    const problem = h("p", {}, "May the model make this call?");
    const decide = async (decision) => {
      for (const button of buttons) button.disabled = true;
      try {
        await this.#decide(callId, decision);
        problem.textContent = decision === "allow" ? "Allowed." : "Denied.";
      } catch (error) {
        problem.textContent = problemOf(error);
        for (const button of buttons) button.disabled = error.status !== 0;
      }
    };
    const buttons = [
      h("button", { class: "button primary", type: "button", on: { click: () => decide("allow") } }, "Allow"),
      h("button", { class: "button", type: "button", on: { click: () => decide("deny") } }, "Deny"),
    ];
    return h("div", { class: "approval", role: "group", "aria-label": "Approval" }, problem, buttons);
  }
}

/** A whole answer of a chat: its parts, and under them how it ended and what can be done with it. */
export class AnswerView {
  #parts;
  #ending = h("div", { class: "ending" });
  #again;
  #shown = null;
  waiting = null;
  problem = null;
  element;

  /** *again* asks the same once more. */
  constructor(answer, { decide, again }) {
    this.answer = answer;
    this.#again = again;
    this.#parts = new PartsView(decide);
    this.element = h(
      "li",
      { class: "message assistant" },
      h("h2", { class: "hidden" }, "Answer"),
      this.#parts.element,
      this.#ending,
    );
  }

  connection(event) {
    this.waiting = event.state === "waiting" ? waitingFor(event) : null;
  }

  render() {
    this.#parts.render(this.answer, this.problem ? "" : this.waiting);
    this.#renderEnding();
  }

  showHtml(html) {
    this.#parts.showHtml(html);
  }

  #renderEnding() {
    const { answer } = this;
    const over = answer.ended || this.problem !== null;
    const shown = over ? `${answer.status} ${answer.stopReason} ${this.problem}` : "";
    if (this.#shown === shown) return;
    this.#shown = shown;
    if (!over) return this.#ending.replaceChildren();
    const ending = this.problem === null ? endingOf(answer) : { text: this.problem, tone: "bad" };
    const why = answer.error ? problemOf(answer.error) : null;
    const tokens = answer.usage && count(answer.usage.completion_tokens, "token");
    const actions = [iconButton("again", "Ask again", this.#again)];
    if (answer.text) actions.unshift(copyButton(() => answer.text, "Copy the answer"));
    this.#ending.replaceChildren(
      h("span", { class: "actions" }, actions),
      ...(ending ? [stateOf(ending)] : []),
      ...(why ? [h("span", { class: "why" }, why)] : []),
      h("span", { class: "facts" }, lineOf([answer.model, ...speedOf(answer), tokens].filter(Boolean))),
    );
  }
}

export function stateOf({ text, tone }) {
  return h("span", { class: tone ? `state ${tone}` : "state" }, text);
}

function given(text) {
  return h("pre", { class: "given", tabindex: "0" }, text);
}

function outcome({ is_error, duration_ms }) {
  const took = duration_ms === null ? "" : duration(duration_ms);
  return is_error ? `failed${took && ` · ${took}`}` : took || "done";
}

function withClass(element, name) {
  element.classList.add(name);
  return element;
}
