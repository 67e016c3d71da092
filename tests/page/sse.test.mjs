// The parser of event streams: whatever the cuts, the same events.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventStreamParser } from "./sse.js";

const utf8 = new TextEncoder();

const STREAM =
  '\ufeffid: r.0\ndata: {"type":"started"}\n\nid: r.1\ndata: Grüße 🦉\n\n: ping\n\n' +
  "event: note\ndata:one\ndata:  two\ndata\n\nretry: 1500\nretry: soon\nid: r\0x\nunknown: x\ndata: [DONE]\n\n" +
  "id\ndata: no id\n\nid: r.3\n\ndata: after an id alone\n\ndata: never dispatched";

const EVENTS = [
  { type: "message", data: '{"type":"started"}', lastEventId: "r.0" },
  { type: "message", data: "Grüße 🦉", lastEventId: "r.1" },
  { type: "note", data: "one\n two\n", lastEventId: "r.1" },
  { type: "message", data: "[DONE]", lastEventId: "r.1" },
  { type: "message", data: "no id", lastEventId: "" },
  { type: "message", data: "after an id alone", lastEventId: "r.3" },
];

const lineEnds = [
  ["LF", "\n"],
  ["CR", "\r"],
  ["CRLF", "\r\n"],
];

for (const [name, lineEnd] of lineEnds) {
  const text = STREAM.replaceAll("\n", lineEnd);
  const bytes = utf8.encode(text);

  test(`${name}: whole, and byte by byte`, () => {
    const whole = new EventStreamParser();
    assert.deepEqual(whole.feed(bytes), EVENTS);
    assert.equal(whole.retry, 1500);
    assert.equal(whole.lastEventId, "r.3");
    const single = new EventStreamParser();
    assert.deepEqual(Array.from(bytes, (_, at) => single.feed(bytes.subarray(at, at + 1))).flat(), EVENTS);
  });

  test(`${name}: cut in two at every byte`, () => {
    for (let at = 0; at <= bytes.length; at += 1) {
      const parser = new EventStreamParser();
      const events = [...parser.feed(bytes.subarray(0, at)), ...parser.feed(bytes.subarray(at))];
      assert.deepEqual(events, EVENTS, `cut at ${at}`);
    }
  });

  test(`${name}: cut in two at every character of the text`, () => {
    for (let at = 0; at <= text.length; at += 1) {
      const parser = new EventStreamParser();
      assert.deepEqual([...parser.feed(text.slice(0, at)), ...parser.feed(text.slice(at))], EVENTS, `cut at ${at}`);
    }
  });
}

test("an event comes with the CR of its empty line, not with what follows", () => {
  const parser = new EventStreamParser();
  assert.equal(parser.feed("data: x\r\r").length, 1);
  assert.deepEqual(parser.feed("\ndata: y\n\n"), [{ type: "message", data: "y", lastEventId: "" }]);
});

test("an id counts only when its event is whole", () => {
  const parser = new EventStreamParser();
  parser.feed("id: r.0\ndata: a\n\nid: r.1\ndata: b\n");
  assert.equal(parser.lastEventId, "r.0");
});

test("only the first character can be a byte order mark", () => {
  const parser = new EventStreamParser();
  assert.deepEqual(
    parser.feed(utf8.encode("data: \ufeffa\n\n\ufeffdata: b\n\n")).map((event) => event.data),
    ["\ufeffa"],
  );
});

test("a long line in many slices takes time that grows with its length alone", () => {
  const parser = new EventStreamParser();
  const slice = "x".repeat(1000);
  parser.feed("data: ");
  for (let count = 0; count < 20_000; count += 1) parser.feed(slice);
  const [event] = parser.feed("\n\n");
  assert.equal(event.data.length, 20_000_000);
});
