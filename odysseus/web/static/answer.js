// What a stream's events add up to: one answer. Pure: no network, no page.

const FINAL = new Set(["done", "stopped", "error", "interrupted"]);
let APPLY; // what each type of event does; set inside the class, whose private methods it calls

export class Answer {
  /** `waiting` until its stream begins, `streaming`, then `done`, `stopped`, `error` or `interrupted`. */
  status = "waiting";
  stopReason = null;
  /** `{code, message}` of the run's own error event. */
  error = null;
  runId = null;
  sessionId = null;
  messageId = null;
  model = null;
  mode = null;
  detached = null;
  text = "";
  reasoning = "";
  /** `{type: "text" | "reasoning", text}`, `{type: "tool_call", .., result, waits}`, in the order they came. */
  parts = [];
  usage = null;
  timings = null;
  finishReason = null;
  /** Counts how often it began anew: a view that has shown another epoch's text must compare before it adds. */
  epoch = 0;

  get ended() {
    return FINAL.has(this.status);
  }

  /** Tokens a second after the first one; null where the model server counted none. */
  get tokensPerSecond() {
    if (!this.usage || !this.timings || this.timings.ttft_ms === null) return null;
    const ms = this.timings.duration_ms - this.timings.ttft_ms;
    return ms > 0 ? (this.usage.completion_tokens * 1000) / ms : null;
  }

  /** Take one event of a stream, or one that the client adds (`connection`, which changes nothing); return the answer. */
  apply(event) {
    APPLY[event.type]?.(this, event);
    return this;
  }

  /** The answer that a session's stored *message* is. */
  static of(message) {
    const answer = new Answer();
    answer.#become(message);
    answer.runId = message.run_id;
    answer.messageId = message.id;
    answer.model = message.model;
    answer.status = message.status;
    answer.stopReason = message.stop_reason;
    answer.usage = message.usage;
    answer.timings = message.timings;
    return answer;
  }

  #add(kind, text) {
    const last = this.parts.at(-1);
    if (last?.type === kind) last.text += text;
    else this.parts.push({ type: kind, text });
    this[kind] += text;
  }

  #begin() {
    this.epoch += 1;
    this.text = this.reasoning = "";
    this.parts = [];
    this.error = null;
    this.stopReason = null;
    this.usage = this.timings = this.finishReason = null;
  }

  #become({ content, reasoning, parts }) {
    this.#begin();
    this.text = content;
    this.reasoning = reasoning;
    for (const part of parts) {
      if (part.type === "tool_call") this.#call(part);
      else if (part.type === "tool_result") this.#result(part);
      else this.parts.push({ type: part.type, text: part.text });
    }
  }

  #call({ call_id, name, arguments: given }) {
    this.parts.push({ type: "tool_call", call_id, name, arguments: given, result: null, waits: false });
  }

  #callOf(call_id) {
    return this.parts.findLast((part) => part.type === "tool_call" && part.call_id === call_id);
  }

  #result({ call_id, output, is_error, duration_ms = null }) {
    const call = this.#callOf(call_id);
    if (!call) return;
    call.waits = false;
    call.result = { output, is_error, duration_ms };
  }

  static {
    APPLY = {
      started(answer, event) {
        answer.#begin(); // whatever there was: a stream that begins again tells everything again
        answer.status = "streaming";
        answer.runId = event.run_id;
        answer.sessionId = event.session_id;
        answer.messageId = event.message_id;
        answer.model = event.model;
        answer.mode = event.mode;
        answer.detached = event.detached;
      },
      delta: (answer, event) => answer.#add("text", event.text),
      reasoning: (answer, event) => answer.#add("reasoning", event.text),
      tool_call: (answer, event) => answer.#call(event),
      tool_result: (answer, event) => answer.#result(event),
      approval_request(answer, event) {
        const call = answer.#callOf(event.call_id);
        if (call && !call.result) call.waits = true;
      },
      usage(answer, { prompt_tokens, completion_tokens, total_tokens }) {
        answer.usage = { prompt_tokens, completion_tokens, total_tokens };
      },
      snapshot: (answer, event) => answer.#become(event),
      error(answer, { code, message }) {
        answer.error = { code, message };
      },
      ended(answer, event) {
        answer.status = event.status;
        answer.stopReason = event.stop_reason;
        answer.messageId = event.message_id ?? answer.messageId;
        answer.finishReason = event.finish_reason;
        answer.usage = event.usage ?? answer.usage;
        answer.timings = event.timings;
      },
    };
  }
}
