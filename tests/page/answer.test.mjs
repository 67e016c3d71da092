// What events add up to.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Answer } from "./answer.js";

const STARTED = {
  type: "started",
  run_id: "r",
  session_id: "s",
  message_id: "m",
  mode: "agent",
  model: "x",
  detached: true,
};
const USAGE = { prompt_tokens: 3, completion_tokens: 40, total_tokens: 43 };
const ENDED = {
  type: "ended",
  status: "done",
  stop_reason: null,
  message_id: "m",
  finish_reason: "stop",
  usage: USAGE,
  timings: { ttft_ms: 100, duration_ms: 2100 },
};
const CALL = { type: "tool_call", call_id: "c", name: "sum", arguments: { of: [1, 2] } };
const RESULT = { type: "tool_result", call_id: "c", name: "sum", output: "3", is_error: false, duration_ms: 0.5 };
const say = (text) => ({ type: "delta", text });
const think = (text) => ({ type: "reasoning", text });

const after = (...events) => events.reduce((answer, event) => answer.apply(event), new Answer());

test("text and reasoning are joined into parts, in the order they came", () => {
  const answer = after(STARTED, think("H"), think("m"), say("Hel"), say("lo"), think("?"), say("."), ENDED);
  assert.equal(answer.text, "Hello.");
  assert.equal(answer.reasoning, "Hm?");
  assert.deepEqual(answer.parts, [
    { type: "reasoning", text: "Hm" },
    { type: "text", text: "Hello" },
    { type: "reasoning", text: "?" },
    { type: "text", text: "." },
  ]);
  assert.deepEqual([answer.status, answer.messageId, answer.finishReason], ["done", "m", "stop"]);
});

test("a call waits for its approval until it has its result", () => {
  const answer = after(STARTED, CALL);
  assert.equal(answer.parts[0].waits, false);
  answer.apply({ ...CALL, type: "approval_request" });
  assert.equal(answer.parts[0].waits, true);
  answer.apply(RESULT);
  assert.equal(answer.parts[0].waits, false);
  assert.deepEqual(answer.parts[0].result, { output: "3", is_error: false, duration_ms: 0.5 });
});

test("a call id that comes twice belongs to the last call", () => {
  const answer = after(STARTED, CALL, RESULT, CALL, { ...RESULT, output: "4" });
  assert.deepEqual(
    answer.parts.map((part) => part.result.output),
    ["3", "4"],
  );
});

test("usage and speed", () => {
  assert.equal(after(STARTED, say("x"), ENDED).tokensPerSecond, 20);
  assert.equal(after(STARTED, ENDED, { ...ENDED, usage: null, timings: null }).tokensPerSecond, null);
  assert.equal(after({ ...ENDED, timings: { ttft_ms: null, duration_ms: 5 } }).tokensPerSecond, null);
  assert.deepEqual(after({ type: "usage", ...USAGE }).usage, USAGE);
});

test("a stream that begins again doubles nothing", () => {
  const answer = after(STARTED, say("one "), CALL, { type: "error", code: "x", message: "y" }, STARTED, say("one "));
  assert.equal(answer.text, "one ");
  assert.equal(answer.parts.length, 1);
  assert.equal(answer.error, null);
  assert.equal(answer.epoch, 2);
});

test("a snapshot stands in for everything before it", () => {
  const parts = [{ type: "reasoning", text: "Hm" }, CALL, { ...RESULT, is_error: true }, { type: "text", text: "all" }];
  const answer = after(
    STARTED,
    say("some"),
    { type: "snapshot", content: "all", reasoning: "Hm", parts, status: "done" },
    ENDED,
  );
  assert.equal(answer.text, "all");
  assert.deepEqual(
    answer.parts.map((part) => part.type),
    ["reasoning", "tool_call", "text"],
  );
  assert.equal(answer.parts[1].result.is_error, true);
});

test("what isn't known yet is no error", () => {
  assert.equal(after({ type: "something new" }, { type: "connection", state: "open" }).status, "waiting");
});

test("a stored message is an answer, too", () => {
  const message = {
    id: "m",
    content: "Hi",
    reasoning: "",
    parts: [{ type: "text", text: "Hi" }],
    status: "stopped",
    stop_reason: "user_stop",
    model: "x",
    run_id: "r",
    usage: null,
    timings: null,
  };
  const answer = Answer.of(message);
  assert.deepEqual([answer.text, answer.status, answer.stopReason, answer.ended], ["Hi", "stopped", "user_stop", true]);
});
