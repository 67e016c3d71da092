// A client of Odysseus' API for browsers and Node: no dependency, no page. It streams with `fetch`, since an
// `EventSource` sees no status and gives up for good at a proxy's 429 or 502.
//
//     const client = new Odysseus();
//     const run = client.chat({ message: "Hello" });
//     const answer = new Answer();
//     for await (const event of run) console.log(answer.apply(event).text);
//
// A run outlives whoever reads it: `run.close()` ends the reading, `run.stop()` the run. A compare pane is the
// opposite: closing it stops its model, and it never comes back by itself.

import { Answer } from "./answer.js";
import { ApiError, apiError, isPassing, networkError } from "./api_error.js";
import { EventStreamParser } from "./sse.js";

export { Answer, ApiError, EventStreamParser };

const EVENT_STREAM = "text/event-stream";
const FIRST_WAIT_MS = 500;
const MOST_WAIT_MS = 15_000;
const STARTS = 6; // how often a refused start is tried; coming back to a run that goes on has no limit
const SILENCE_MS = 45_000; // several of the service's pings: behind such a silence there is no connection any more

export class Odysseus {
  /**
   * `base` is the service's origin; `token` is sent as `Authorization: Bearer`, else the browser's cookie counts.
   * `lastEventIds` keeps the last event id of each run that is being read, by run id: anything with a Map's `get`,
   * `set` and `delete`. The rest is for tests.
   */
  constructor({
    base = "",
    token = null,
    lastEventIds = new Map(),
    fetch: fetcher = (...request) => globalThis.fetch(...request),
    sleep = sleepUnless,
    random = Math.random,
  } = {}) {
    Object.assign(this, { base, token, lastEventIds, fetcher, sleep, random });
  }

  /**
   * Start a run, or join the one that has `run_id`: `{message, session_id?, model?, mode?, system?, ..}` as
   * `POST /api/chat_stream` takes it. Nothing is sent until it is read. A start whose answer got lost is sent again
   * under the same `run_id`, so it is paid once.
   */
  chat(request) {
    const asked = { run_id: newRunId(), ...request };
    return new Run(this, { asked, runId: asked.run_id, sessionId: asked.session_id ?? null });
  }

  /** Read a session's run: its current one, or *runId*; after *lastEventId*, or from its start. */
  resume(sessionId, { runId = null, lastEventId = "" } = {}) {
    return new Run(this, { runId, sessionId, lastEventId });
  }

  /** Stop what a session runs, or *runId* alone; answered when the model is disconnected and the answer is saved. */
  stop(sessionId, runId = null) {
    const headers = runId === null ? {} : { "X-Odysseus-Run-Id": runId };
    return this.call("POST", `/api/chat/stop/${encodeURIComponent(sessionId)}`, undefined, { headers });
  }

  /** Prepare a compare: `{message, models, mode?, system?, blind?}`. Reading a pane starts its model. */
  async compare(request) {
    const made = await this.call("POST", "/api/compare", request);
    return { ...made, panes: made.panes.map((pane, number) => new Pane(this, made.compare_id, number, pane)) };
  }

  /** Turn a compare's pane into a chat, which goes on whoever leaves. */
  keep(compareId, pane) {
    return this.call("POST", `/api/compare/${encodeURIComponent(compareId)}/${pane}/keep`);
  }

  /** Say which pane of a blind compare was best, or `"tie"`; learn the names. */
  vote(compareId, winner) {
    return this.call("POST", `/api/compare/${encodeURIComponent(compareId)}/vote`, { winner });
  }

  /** Decide a tool call that waits for it: `"allow"` or `"deny"`. */
  approve(sessionId, callId, decision, reason) {
    const verdict = { call_id: callId, decision, reason };
    return this.call("POST", `/api/chat/approve/${encodeURIComponent(sessionId)}`, verdict);
  }

  /** Make any call of the API; return its JSON, null where there is none. Throws `ApiError`. */
  async call(method, path, body, { headers = {}, signal } = {}) {
    const all = { Accept: "application/json", ...headers };
    const response = await this.open(method, path, { body, headers: all, signal });
    if (response.status === 204) return null;
    try {
      return await response.json();
    } catch (error) {
      throw networkError(error);
    }
  }

  /** Make a call; return its `Response` if it is a good one. Throws `ApiError`. */
  async open(method, path, { body, headers = {}, signal } = {}) {
    const all = { ...headers };
    if (this.token) all.Authorization = `Bearer ${this.token}`;
    if (body !== undefined) all["Content-Type"] = "application/json";
    let response;
    try {
      response = await this.fetcher(this.base + path, {
        method,
        headers: all,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
        credentials: "same-origin",
      });
    } catch (error) {
      throw networkError(error);
    }
    if (!response.ok) throw await apiError(response);
    return response;
  }
}

/** One detached run, as its reader sees it: iterate over it once. What a lost connection missed is got again. */
export class Run {
  #client;
  #asked;
  #lastEventId;
  #closing = new AbortController();
  #stopWanted = false;
  #over = false;

  constructor(client, { asked = null, runId = null, sessionId = null, lastEventId = "" }) {
    this.#client = client;
    this.#asked = asked;
    this.runId = runId;
    this.sessionId = sessionId;
    this.#lastEventId = lastEventId;
  }

  /** End the reading; the run goes on. */
  close() {
    this.#closing.abort();
  }

  /** Stop the run. The reading goes on to its `ended`, which comes when the answer is saved. */
  async stop() {
    this.#stopWanted = true;
    try {
      // Before the start is answered there may be no session yet. Then the service remembers the run's id, and refuses
      // the start; or it is 404, since the run has just begun in a session that we don't know: `#name` will stop it.
      return await this.#client.stop(this.sessionId ?? "unknown", this.runId);
    } catch (error) {
      if (this.sessionId === null && error.status === 404) return null;
      throw error;
    }
  }

  /**
   * Yields the run's events, each once, and `{type: "connection", state, ..}` in between: `open`; `waiting` with
   * `wait_ms` and the `problem`, an `ApiError`; `nothing` when the service has no more to tell. Throws `ApiError` when
   * coming back is no use.
   */
  async *[Symbol.asyncIterator]() {
    let failures = 0;
    while (!this.#closing.signal.aborted) {
      const link = linkedTo(this.#closing.signal);
      let problem;
      try {
        const response = await this.#open(link.signal);
        if (response.status === 204) {
          yield { type: "connection", state: "nothing" };
          return;
        }
        this.#name(response);
        yield { type: "connection", state: "open" };
        for await (const event of streamed(response, link, SILENCE_MS)) {
          const fate = this.#place(event.lastEventId);
          if (fate === "again") continue;
          if (fate === "gap") break;
          failures = 0;
          this.#remember(event);
          yield event.payload;
        }
        if (this.#over) return;
        problem = networkError();
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        if (error.code === "stopped_before_start") {
          yield stoppedBeforeStart();
          return;
        }
        problem = error;
      } finally {
        link.end(this.#over);
        if (this.#over) this.#client.lastEventIds.delete(this.runId);
      }
      failures += 1;
      const refusedStart = this.#asked !== null && problem.status !== 0;
      if (!isPassing(problem) || (refusedStart && failures >= STARTS)) throw problem;
      const wait_ms = backoff(failures, problem.retryAfterMs, this.#client.random);
      yield { type: "connection", state: "waiting", wait_ms, problem };
      await this.#client.sleep(wait_ms, this.#closing.signal);
    }
  }

  #open(signal) {
    if (this.#asked) {
      const headers = { Accept: EVENT_STREAM };
      return this.#client.open("POST", "/api/chat_stream", { body: this.#asked, headers, signal });
    }
    const headers = { Accept: EVENT_STREAM };
    if (this.#lastEventId) headers["Last-Event-ID"] = this.#lastEventId;
    const query = this.runId === null ? "" : `?run_id=${encodeURIComponent(this.runId)}`;
    const path = `/api/chat/resume/${encodeURIComponent(this.sessionId)}${query}`;
    return this.#client.open("GET", path, { headers, signal });
  }

  /** Once the service has named the run, the start is done: from now on it is resumed, never sent again. */
  #name(response) {
    this.runId = response.headers.get("X-Odysseus-Run-Id") ?? this.runId;
    this.sessionId = response.headers.get("X-Odysseus-Session-Id") ?? this.sessionId;
    if (this.sessionId === null) return;
    this.#asked = null;
    if (this.#stopWanted) this.stop().catch(() => {}); // the first one may have come before the run
  }

  /** How an event follows the last one: `next`, `again` if it has been seen, `gap` if one before it is missing. */
  #place(id) {
    const [run, seq] = split(id);
    const [lastRun, lastSeq] = split(this.#lastEventId);
    if (seq === null || seq === 0 || run !== lastRun || lastSeq === null) return "next";
    if (seq === lastSeq + 1) return "next";
    if (seq <= lastSeq) return "again";
    this.#lastEventId = ""; // what lies between is got by having everything again
    return "gap";
  }

  #remember({ lastEventId, payload }) {
    this.#over = payload.type === "ended";
    if (!lastEventId) return;
    this.#lastEventId = lastEventId;
    this.#client.lastEventIds.set(this.runId, lastEventId);
  }
}

/** One model of a compare. Iterate over it once; closing it, or leaving the page, stops its model. */
export class Pane {
  #client;
  #closing = new AbortController();

  constructor(client, compareId, number, { session_id, model = null, label = null, stream }) {
    this.#client = client;
    Object.assign(this, { compareId, number, sessionId: session_id, model, label, stream, runId: null });
  }

  /** Stop the model: close its stream, and say so, since some proxies never pass a close on. */
  stop() {
    this.close();
    return this.#client.stop(this.sessionId, this.runId);
  }

  close() {
    this.#closing.abort();
  }

  /** Yields the pane's events, then a `connection` event: `nothing` if it had been started before, or `lost`. */
  async *[Symbol.asyncIterator]() {
    const link = linkedTo(this.#closing.signal);
    let over = false;
    try {
      const headers = { Accept: EVENT_STREAM };
      const response = await this.#client.open("GET", this.stream, { headers, signal: link.signal });
      if (response.status === 204) {
        yield { type: "connection", state: "nothing" };
        return;
      }
      this.runId = response.headers.get("X-Odysseus-Run-Id");
      yield { type: "connection", state: "open" };
      for await (const event of streamed(response, link)) {
        over = event.payload.type === "ended";
        yield event.payload;
      }
      if (!over && !this.#closing.signal.aborted) yield { type: "connection", state: "lost" };
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      if (error.status) throw error;
      yield { type: "connection", state: "lost" };
    } finally {
      link.end(over);
    }
  }
}

/** Yields a response's events with their `payload`, the parsed data; ends where the stream ends, or breaks. */
async function* streamed(response, link, silenceMs = null) {
  const parser = new EventStreamParser();
  const reader = response.body.getReader();
  for (;;) {
    const timer = silenceMs === null ? null : setTimeout(() => link.abort(), silenceMs);
    let read;
    try {
      read = await reader.read();
    } catch {
      return;
    } finally {
      clearTimeout(timer);
    }
    if (read.done) return;
    for (const event of parser.feed(read.value)) {
      if (event.data !== "[DONE]") yield { ...event, payload: JSON.parse(event.data) };
    }
  }
}

/** What one request is aborted by: with *signal*, or by itself. A request that is over keeps its connection. */
function linkedTo(signal) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort);
  const end = (over) => {
    signal.removeEventListener("abort", abort);
    if (!over) abort();
  };
  return { signal: controller.signal, abort, end };
}

function split(id) {
  const dot = id.lastIndexOf(".");
  const seq = id.slice(dot + 1);
  return dot > 0 && /^[0-9]+$/.test(seq) ? [id.slice(0, dot), Number(seq)] : [id.slice(0, Math.max(dot, 0)), null];
}

/** Half of it at random, so that the clients that a restart cut off don't come back all at once. */
function backoff(failures, atLeastMs, random) {
  const most = Math.min(MOST_WAIT_MS, FIRST_WAIT_MS * 2 ** (failures - 1));
  return Math.round(Math.max(most / 2, atLeastMs ?? 0) + (random() * most) / 2);
}

/** Wait, but no longer than until the browser is online again, or *signal* is aborted. */
function sleepUnless(ms, signal) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", wake);
      globalThis.removeEventListener?.("online", wake);
      resolve();
    };
    const timer = setTimeout(wake, ms);
    signal.addEventListener("abort", wake);
    globalThis.addEventListener?.("online", wake);
  });
}

function stoppedBeforeStart() {
  const nothing = { message_id: null, finish_reason: null, usage: null, timings: null };
  return { type: "ended", status: "stopped", stop_reason: "user_stop", ...nothing };
}

/** Only pages of secure origins have `randomUUID`; a service in a home network is none. */
function newRunId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(12));
  return `run_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
