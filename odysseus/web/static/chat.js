// A chat: its messages, and the run that answers the last one, followed wherever it was begun.

import { AnswerView } from "./answer_view.js";
import { Composer } from "./composer.js";
import { eachFrame, h } from "./dom.js";
import { Follower } from "./follower.js";
import { Answer } from "./odysseus.js";
import { titleOf } from "./sessions.js";
import { endingOf, problemOf } from "./words.js";

const STARTERS = [
  ["Count to 200", "and close this page while it counts"],
  ["What is 17 * 23?", "an agent asks its tools", "agent"],
  ["Explain server-sent events in five sentences", "then ask for a table"],
  ["Write a haiku about the sea", "or stop it halfway"],
];

export class ChatView {
  #client;
  #models;
  #announcer;
  #told;
  #list = document.getElementById("messages");
  #scroll = document.getElementById("conversation");
  #welcome = document.getElementById("chat-welcome");
  #modes = document.getElementById("mode");
  #follower;
  #composer;
  /** Where the reader is. It is replaced when they go elsewhere, so that what comes late for another place is seen to. */
  #place = { sessionId: null };

  /** *told* has `began(sessionId)`, `titled(title)` and `changed()`. */
  constructor(client, models, announcer, told) {
    this.#client = client;
    this.#models = models;
    this.#announcer = announcer;
    this.#told = told;
    const jump = document.getElementById("jump");
    this.#follower = new Follower(this.#scroll, (following) => (jump.hidden = following));
    jump.addEventListener("click", () => this.#follower.follow());
    this.#composer = new Composer(document.getElementById("chat-composer"), {
      send: (text) => this.send(text),
      stop: () => this.stop(),
    });
    document.getElementById("starters").append(...STARTERS.map((starter) => this.#starter(...starter)));
  }

  /** Show a session, or with null the empty page that a new one begins on. */
  async open(sessionId) {
    const again = sessionId !== null && sessionId === this.#place.sessionId;
    this.leave();
    const place = (this.#place = { sessionId, loading: true });
    this.#composer.runs = false;
    if (!again) {
      this.#composer.say(null);
      this.#list.replaceChildren();
    }
    this.#welcome.hidden = sessionId !== null;
    if (sessionId === null) this.#told.titled("New chat");
    else await this.#load(place, again);
    place.loading = false;
  }

  /** Stop reading. What runs goes on. */
  leave() {
    this.#place.run?.close();
    this.#place = { sessionId: null };
  }

  focus() {
    this.#composer.focus();
  }

  /** What the list of sessions says: another tab may have asked something in this one. */
  seen(sessions) {
    const place = this.#place;
    const session = sessions.find(({ id }) => id === place.sessionId);
    if (session) this.#told.titled(titleOf(session));
    if (!session || place.loading || place.run) return;
    if (place.updatedAt && place.updatedAt !== session.updated_at) this.open(place.sessionId);
    place.updatedAt = session.updated_at;
  }

  async send(text) {
    const place = this.#place;
    this.#composer.text = "";
    this.#composer.say(null);
    this.#welcome.hidden = true;
    const question = userMessage(text);
    const view = this.#answerView(new Answer(), text);
    this.#list.append(question, view.element);
    this.#follower.follow();
    const mode = this.#modes.querySelector(":checked").value;
    const session = place.sessionId === null ? {} : { session_id: place.sessionId };
    const model = this.#models.chosen === null ? {} : { model: this.#models.chosen };
    const problem = await this.#follow(place, this.#client.chat({ message: text, mode, ...model, ...session }), view);
    if (place !== this.#place || place.accepted === view) return;
    question.remove(); // it never arrived: back to where it was written
    view.element.remove();
    this.#welcome.hidden = this.#list.children.length > 0;
    this.#composer.text ||= text;
    this.#composer.say(problem);
    if (problem?.code === "busy") this.open(place.sessionId);
  }

  async stop() {
    const { run } = this.#place;
    if (!run || !this.#composer.runs) return;
    this.#composer.stopping();
    try {
      await run.stop();
    } catch (error) {
      if (run.sessionId === null)
        run.close(); // it can't be reached, and there is nothing yet that we know of
      else if (this.#place.run === run) {
        this.#composer.say(error);
        this.#composer.runs = this.#composer.runs; // and Stop can be tried again
      }
    }
  }

  async #load(place, again) {
    let session;
    try {
      session = await this.#client.call("GET", `/api/sessions/${encodeURIComponent(place.sessionId)}`);
    } catch (error) {
      if (place !== this.#place) return;
      this.#told.titled("Chat");
      this.#composer.say(error);
      return;
    }
    if (place !== this.#place) return;
    const top = this.#scroll.scrollTop;
    place.updatedAt = session.updated_at;
    this.#told.titled(titleOf(session));
    this.#show(place, session);
    if (again && !this.#follower.following) this.#scroll.scrollTop = top;
    else this.#follower.follow();
  }

  #show(place, session) {
    let question = "";
    const elements = [];
    for (const message of session.messages) {
      if (message.role === "user") {
        question = message.content;
        elements.push(userMessage(question));
        continue;
      }
      const view = this.#answerView(Answer.of(message), question);
      view.render();
      if (message.html) view.showHtml(message.html);
      elements.push(view.element);
      if (message.status === "streaming") place.view = view;
    }
    this.#list.replaceChildren(...elements);
    this.#models.choose(session.messages.at(-1)?.model ?? session.model);
    if (!place.view) return;
    const run = this.#client.resume(place.sessionId, { runId: place.view.answer.runId });
    this.#follow(place, run, place.view).then((problem) => {
      if (problem && place === this.#place) {
        place.view.problem = problemOf(problem);
        place.view.render();
      }
    });
  }

  /** Read *run* into *view* to its end, or until the reader goes elsewhere. Returns what went wrong, or null. */
  async #follow(place, run, view) {
    place.run = run;
    this.#composer.runs = true;
    this.#announcer.begin();
    const draw = eachFrame(() => {
      if (place !== this.#place) return;
      view.render();
      this.#follower.grown();
    });
    let problem = null;
    draw();
    try {
      for await (const event of run) {
        if (place !== this.#place) return null;
        if (event.type === "connection") view.connection(event);
        else view.answer.apply(event);
        if (run.sessionId !== null && event.type !== "connection") this.#accepted(place, run, view);
        this.#announcer.grown(view.answer.text);
        draw();
      }
    } catch (error) {
      problem = error;
    }
    if (place !== this.#place) return null;
    if (!problem) await this.#complete(place, view);
    if (place !== this.#place) return null;
    this.#composer.runs = false;
    place.run = null;
    place.updatedAt = null; // which our own run has changed
    this.#told.changed();
    return problem;
  }

  #accepted(place, run, view) {
    if (place.accepted === view) return;
    place.accepted = view;
    if (place.sessionId === null) {
      place.sessionId = run.sessionId;
      this.#told.began(run.sessionId);
    }
    this.#told.changed();
  }

  /** Its stream is over: get what only the store knows, the rendered answer. */
  async #complete(place, view) {
    const { answer } = view;
    if (answer.ended) {
      view.render();
      this.#announcer.end(answer.text, endingOf(answer)?.text);
      if (!answer.messageId) return;
    } else if (place.sessionId === null) return;
    this.#composer.runs = false;
    const message = await this.#stored(place.sessionId, answer.messageId);
    if (place !== this.#place || !message) return;
    if (!answer.ended) {
      view.answer = Answer.of(message);
      view.answer.epoch += answer.epoch;
      view.render();
    }
    if (message.html) view.showHtml(message.html);
    this.#follower.grown();
  }

  /** Null when it can't be had: what was streamed stays as it is. */
  #stored(sessionId, messageId) {
    return this.#client.call("GET", `/api/sessions/${sessionId}/messages/${messageId}`).catch(() => null);
  }

  #answerView(answer, question) {
    return new AnswerView(answer, {
      decide: (callId, decision) => this.#client.approve(this.#place.sessionId, callId, decision),
      again: () => this.#composer.runs || this.send(question),
    });
  }

  #starter(text, why, mode = "chat") {
    const click = () => {
      this.#modes.querySelector(`[value=${mode}]`).checked = true;
      this.send(text);
    };
    return h("li", {}, h("button", { type: "button", on: { click } }, text, h("small", {}, why)));
  }
}

function userMessage(text) {
  return h("li", { class: "message user" }, h("h2", { class: "hidden" }, "You"), h("span", {}, text));
}
