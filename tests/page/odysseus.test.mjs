// The client, in front of a service that says what the test wants it to, cut where the test wants it cut.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Answer, ApiError, Odysseus } from "./odysseus.js";

const utf8 = new TextEncoder();
const NAMES = { "X-Odysseus-Run-Id": "run", "X-Odysseus-Session-Id": "ses" };

const started = { type: "started", run_id: "run", session_id: "ses", message_id: "m", mode: "chat", model: "x" };
const ended = {
  type: "ended",
  status: "done",
  stop_reason: null,
  message_id: "m",
  finish_reason: "stop",
  usage: null,
  timings: null,
};
const TEXT = "Grüße, 🦉 and a line\nmore";
const events = [started, ...Array.from(TEXT, (text) => ({ type: "delta", text })), ended];

const frame = (event, id) => `${id === undefined ? "" : `id: ${id}\n`}data: ${JSON.stringify(event)}\n\n`;
const frames = (from = 0, run = "run") =>
  events
    .slice(from)
    .map((event, n) => frame(event, `${run}.${from + n}`))
    .join("");
const DONE = "data: [DONE]\n\n";

/** A stream of these bytes, which then ends, or breaks. */
function stream(text, { breaks = false, headers = NAMES, size = 7 } = {}) {
  const bytes = typeof text === "string" ? utf8.encode(text) : text;
  let at = 0;
  const body = new ReadableStream({
    pull(controller) {
      if (at < bytes.length) controller.enqueue(bytes.subarray(at, (at += size)));
      else if (breaks) controller.error(new TypeError("network error"));
      else controller.close();
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream", ...headers } });
}

const refusal = (status, code, headers = {}) =>
  new Response(JSON.stringify({ error: { code, message: "no" } }), { status, headers });
const lost = () => Promise.reject(new TypeError("fetch failed"));

/** A client whose calls are answered by *answers* in turn; a function is asked with the call. Waiting takes no time. */
function clientOf(...answers) {
  const calls = [];
  const waits = [];
  const client = new Odysseus({
    async fetch(url, options) {
      calls.push({
        url,
        method: options.method,
        headers: options.headers,
        body: options.body && JSON.parse(options.body),
      });
      const answer = answers.shift();
      assert.ok(answer, `nobody expects ${options.method} ${url}`);
      return typeof answer === "function" ? answer(options) : answer;
    },
    sleep: async (ms) => void waits.push(ms),
    random: () => 0.5,
  });
  return { client, calls, waits, left: answers };
}

async function read(stream) {
  const answer = new Answer();
  const states = [];
  for await (const event of stream) {
    answer.apply(event);
    if (event.type === "connection") states.push(event.state);
  }
  return { answer, states };
}

test("a whole stream is one answer, and nothing is asked twice", async () => {
  const { client, calls } = clientOf(stream(frames() + DONE));
  const { answer, states } = await read(client.chat({ message: "Hi" }));
  assert.deepEqual([answer.text, answer.status, states], [TEXT, "done", ["open"]]);
  assert.equal(calls.length, 1);
  assert.match(calls[0].body.run_id, /^run_[0-9a-f]{24}$/);
  assert.equal(client.lastEventIds.size, 0);
});

test("a stream that breaks at any byte goes on where it was", async () => {
  const whole = utf8.encode(frames());
  for (let at = 0; at < whole.length; at += 1) {
    const resumed = ({ headers }) => {
      const seen = headers["Last-Event-ID"];
      return stream(frames(seen ? Number(seen.split(".")[1]) + 1 : 0) + DONE, { size: 1000 });
    };
    const { client, calls } = clientOf(stream(whole.subarray(0, at), { breaks: at % 2 === 0, size: 1000 }), resumed);
    const { answer } = await read(client.chat({ message: "Hi" }));
    assert.deepEqual([answer.text, answer.status], [TEXT, "done"], `cut at ${at}`);
    assert.equal(calls[1].url, "/api/chat/resume/ses?run_id=run");
  }
});

test("a service that replays everything doubles nothing", async () => {
  for (let from = 0; from <= events.length - 1; from += 1) {
    const cut = events
      .slice(0, from)
      .map((event, n) => frame(event, `run.${n}`))
      .join("");
    const { client } = clientOf(stream(cut, { breaks: true }), stream(frames()));
    const { answer } = await read(client.chat({ message: "Hi" }));
    assert.equal(answer.text, TEXT, `cut after ${from}`);
  }
});

test("frames that were seen are skipped, and a gap is filled from the start", async () => {
  const overlapping = clientOf(stream(frames().slice(0, 400), { breaks: true }), stream(frames(2)));
  assert.equal((await read(overlapping.client.chat({ message: "Hi" }))).answer.text, TEXT);

  const gap = frame(started, "run.0") + frame({ type: "delta", text: "G" }, "run.1") + frames(4);
  const { client, calls } = clientOf(stream(gap), stream(frames()));
  assert.equal((await read(client.chat({ message: "Hi" }))).answer.text, TEXT);
  assert.equal(calls[1].headers["Last-Event-ID"], undefined);
});

test("a snapshot replaces what came before", async () => {
  const snapshot = {
    type: "snapshot",
    content: "G",
    reasoning: "",
    parts: [{ type: "text", text: "G" }],
    status: "interrupted",
  };
  const over = { ...ended, status: "interrupted", stop_reason: "node_lost" };
  const again = stream(frame(snapshot, "run.snapshot") + frame(over, "run.end") + DONE);
  const { client } = clientOf(stream(frames().slice(0, 500), { breaks: true }), again);
  const { answer } = await read(client.chat({ message: "Hi" }));
  assert.deepEqual([answer.text, answer.status, answer.stopReason], ["G", "interrupted", "node_lost"]);
});

test("frames replace a snapshot that was cut off before its end", async () => {
  const snapshot = { type: "snapshot", content: TEXT, reasoning: "", parts: [{ type: "text", text: TEXT }] };
  const cut = stream(frame(snapshot, "run.snapshot"), { breaks: true });
  const { client, calls } = clientOf(stream(frames().slice(0, 500), { breaks: true }), cut, stream(frames()));
  const { answer } = await read(client.chat({ message: "Hi" }));
  assert.deepEqual([calls[2].headers["Last-Event-ID"], answer.text], ["run.snapshot", TEXT]);
});

test("a start whose answer got lost is sent again under the same id", async () => {
  const { client, calls, waits } = clientOf(lost, lost, stream(frames()));
  const { answer, states } = await read(client.chat({ message: "Hi", session_id: "ses" }));
  assert.equal(answer.text, TEXT);
  assert.equal(new Set(calls.map((call) => call.body.run_id)).size, 1);
  assert.deepEqual(states, ["waiting", "waiting", "open"]);
  assert.ok(waits[1] > waits[0]);
});

test("204 is the end", async () => {
  const { client } = clientOf(stream(frames().slice(0, 300), { breaks: true }), new Response(null, { status: 204 }));
  const { states } = await read(client.chat({ message: "Hi" }));
  assert.deepEqual(states, ["open", "waiting", "nothing"]);
});

test("a busy service is asked again when it says, a proxy's word counts, too", async () => {
  const html = new Response("<html>Bad gateway", { status: 502 });
  const refusals = [
    refusal(503, "too_many_runs", { "Retry-After": "7" }),
    refusal(429, "x", { "Retry-After": "1" }),
    html,
  ];
  const { client, waits } = clientOf(...refusals, stream(frames()));
  assert.equal((await read(client.chat({ message: "Hi" }))).answer.status, "done");
  assert.ok(waits[0] >= 7000, `${waits}`);
  assert.ok(waits[1] >= 1000 && waits[1] < 7000, `${waits}`);
});

test("a start that is refused again and again fails; coming back never does", async () => {
  const starting = clientOf(...Array.from({ length: 6 }, () => refusal(503, "draining")));
  await assert.rejects(read(starting.client.chat({ message: "Hi" })), { code: "draining", status: 503 });

  const away = Array.from({ length: 40 }, () => refusal(503, "draining"));
  const { client, waits } = clientOf(stream(frames().slice(0, 300), { breaks: true }), ...away, stream(frames()));
  assert.equal((await read(client.chat({ message: "Hi" }))).answer.text, TEXT);
  assert.ok(Math.max(...waits) <= 15_000);
});

test("what waiting can't mend is thrown at once", async () => {
  for (const [status, code] of [
    [401, "unauthorized"],
    [404, "not_found"],
    [409, "busy"],
    [422, "invalid_field"],
  ]) {
    const { client, calls } = clientOf(refusal(status, code));
    await assert.rejects(
      read(client.chat({ message: "Hi" })),
      (error) => error instanceof ApiError && error.code === code,
    );
    assert.equal(calls.length, 1);
  }
});

test("resume reads from the start, or after an id", async () => {
  const { client, calls } = clientOf(stream(frames(3)), stream(frames()));
  await read(client.resume("ses", { runId: "run", lastEventId: "run.2" }));
  assert.equal(calls[0].headers["Last-Event-ID"], "run.2");
  await read(client.resume("ses"));
  assert.deepEqual([calls[1].url, calls[1].headers["Last-Event-ID"]], ["/api/chat/resume/ses", undefined]);
});

test("the last event id is kept while the run is read", async () => {
  const { client } = clientOf(stream(frames()));
  const seen = [];
  for await (const event of client.chat({ message: "Hi" })) {
    if (event.type === "delta") seen.push(client.lastEventIds.get("run"));
  }
  assert.deepEqual(seen.slice(0, 2), ["run.1", "run.2"]);
  assert.equal(client.lastEventIds.size, 0);
});

test("a stop names the run, and is said again when it came before the run's start", async () => {
  const { client, calls } = clientOf(refusal(404, "not_found"), stream(frames()), Response.json({ stopped: true }));
  const run = client.chat({ message: "Hi" });
  await run.stop();
  await read(run);
  assert.equal(calls[0].headers["X-Odysseus-Run-Id"], calls[1].body.run_id);
  assert.equal(calls[2].url, "/api/chat/stop/ses");
});

test("a start that its stop overtook is a stopped answer", async () => {
  const { client } = clientOf(refusal(409, "stopped_before_start"));
  const { answer } = await read(client.chat({ message: "Hi" }));
  assert.deepEqual([answer.status, answer.stopReason], ["stopped", "user_stop"]);
});

test("closing ends the reading, also while it waits", async () => {
  const { client } = clientOf(stream(frames().slice(0, 300), { breaks: true }));
  const run = client.chat({ message: "Hi" });
  const states = [];
  for await (const event of run) {
    if (event.type !== "connection") continue;
    states.push(event.state);
    if (event.state === "waiting") run.close();
  }
  assert.deepEqual(states, ["open", "waiting"]);
});

const made = {
  compare_id: "cmp",
  panes: [0, 1].map((n) => ({ session_id: `s${n}`, model: "x", stream: `/api/compare/cmp/${n}` })),
};

test("a whole pane has nothing more to tell", async () => {
  const { client } = clientOf(Response.json(made, { status: 201 }), stream(frames() + DONE));
  const { panes } = await client.compare({ message: "Hi", models: ["x", "x"] });
  const { answer, states } = await read(panes[0]);
  assert.deepEqual([answer.text, answer.status, states], [TEXT, "done", ["open"]]);
});

test("a pane never comes back by itself", async () => {
  const { client, calls } = clientOf(
    Response.json(made, { status: 201 }),
    stream(frames().slice(0, 300), { breaks: true }),
  );
  const { panes } = await client.compare({ message: "Hi", models: ["x", "x"] });
  const { states } = await read(panes[0]);
  assert.deepEqual(states, ["open", "lost"]);
  assert.equal(calls.length, 2);
});

test("a pane that can't be reached is lost, one that was started before has nothing more, a refusal is thrown", async () => {
  const answers = [Response.json(made, { status: 201 }), lost, new Response(null, { status: 204 })];
  const { client, left } = clientOf(...answers);
  const { panes } = await client.compare({ message: "Hi", models: ["x", "x"] });
  assert.deepEqual((await read(panes[0])).states, ["lost"]);
  assert.deepEqual((await read(panes[0])).states, ["nothing"]);
  left.push(refusal(404, "not_found"));
  await assert.rejects(read(panes[1]), { code: "not_found" });
});

test("stopping a pane closes its stream first, then says so", async () => {
  let closed = false;
  const silent = ({ signal }) => {
    signal.addEventListener("abort", () => (closed = true));
    const body = new ReadableStream({ start: (it) => signal.addEventListener("abort", () => it.error(signal.reason)) });
    return new Response(body, { headers: NAMES });
  };
  const stopping = () => (assert.ok(closed), Response.json({ stopped: true }));
  const { client, calls } = clientOf(Response.json(made, { status: 201 }), silent, stopping);
  const { panes } = await client.compare({ message: "Hi", models: ["x", "x"] });
  const states = [];
  for await (const event of panes[0]) {
    states.push(event.state);
    await panes[0].stop();
  }
  assert.deepEqual(states, ["open"]);
  assert.deepEqual([calls[2].url, calls[2].headers["X-Odysseus-Run-Id"]], ["/api/chat/stop/s0", "run"]);
});
