// Vercel's resumable-stream, used as its README tells: node:http, Redis, an event a chunk. Resumes after a character.
// Usage: REDIS_URL=.. node server.mjs PORT UPSTREAM_PORT

import { randomUUID } from "node:crypto";
import http from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createResumableStreamContext } from "resumable-stream";

const [port, upstreamPort] = process.argv.slice(2).map(Number);
const streams = createResumableStreamContext({ waitUntil: null });
const agent = new http.Agent({ keepAlive: true });

async function* deltas(message) {
  const body = JSON.stringify({ model: "bench", messages: [{ role: "user", content: message }], stream: true });
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
  const answer = await new Promise((resolve, reject) => {
    const options = { agent, port: upstreamPort, host: "127.0.0.1", method: "POST", path: "/v1/chat/completions", headers };
    http.request(options, resolve).on("error", reject).end(body);
  });
  answer.setEncoding("utf8");
  let rest = "";
  for await (const text of answer) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const delta = JSON.parse(line.slice(6)).choices[0].delta;
      if (delta.content) yield { type: "delta", text: delta.content };
      else if (delta.reasoning_content) yield { type: "reasoning", text: delta.reasoning_content };
    }
  }
}

async function* events(message) {
  let number = 0;
  for await (const piece of deltas(message)) yield `id: ${number++}\ndata: ${JSON.stringify(piece)}\n\n`;
  yield "data: [DONE]\n\n";
}

async function bodyOf(request) {
  let body = "";
  for await (const text of request.setEncoding("utf8")) body += text;
  return JSON.parse(body);
}

async function answer(request, response) {
  let id, stream;
  if (request.method === "POST") {
    const { message } = await bodyOf(request);
    id = randomUUID();
    stream = await streams.createNewResumableStream(id, () => ReadableStream.from(events(message)));
  } else {
    id = request.url.slice(request.url.lastIndexOf("/") + 1);
    stream = await streams.resumeExistingStream(id, Number(request.headers["last-event-id"] ?? 0));
  }
  if (!stream) return response.writeHead(204).end();
  response.writeHead(200, { "Content-Type": "text/event-stream", "X-Odysseus-Session-Id": id });
  response.flushHeaders();
  // A client that leaves cancels its own stream here; the library's producer goes on.
  await pipeline(Readable.fromWeb(stream), response).catch(() => {});
}

http.createServer(answer).listen(port, "127.0.0.1", 1024);
