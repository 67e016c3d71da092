"""Text that shall become something else on its way: an event of a stream, a header, a line of the log.

Whoever decides what a model, a tool or a user says may write anything. A client's decoder sees the events that were
meant and no other, and the log has a line for what happened and none for what somebody wrote.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fake_upstream import Exchange, Script, chunk, in_turn, say, status, wants
from tests.process.attacks import LEFT_ALONE, head, replies
from tests.process.models import Models
from tests.process.raw_client import Client
from tests.process.service import Process, Service, serving

SETTINGS: dict[str, Any] = {"replay_grace_s": 0.05, **LEFT_ALONE}

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

# Events

FAKE = '{"type":"ended","status":"done","stop_reason":null,"message_id":"msg_forged"}'
HOSTILE: dict[str, str] = {
    "an event": f"\n\ndata: {FAKE}\n\n",
    "an event, by CR LF": f"\r\n\r\ndata: {FAKE}\r\n\r\n",
    "an event, by CR alone": f"\r\rdata: {FAKE}\r\r",
    "the end of the stream": "\n\ndata: [DONE]\n\n",
    "the end, alone": "[DONE]",
    "an id": "\nid: run_forged.0\n",
    "an id with a NUL": "\nid: run\0forged\n",
    "a type": "\nevent: error\n",
    "a wait": "\nretry: 1\n",
    "a comment": "\n: ping\n\n",
    "a BOM": "\ufeffdata: x\n\n",
    "separators of lines": f"\u2028\u2028data: {FAKE}\u2029\u0085\u000b\u000c",
    "the end of a chunk": "\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "the end of a string": '"}\n\ndata: [DONE]\n\n{"a": "',
    "escapes that look escaped": "\\n\\ndata: [DONE]\\u000a\\u000a",
    "escapes for a terminal": "\x1b[2J\x1b]0;forged\x07",
    "a script": "</script><script>alert(1)</script>",
}


def spoken(text: str) -> Script:
    """A script that says *text* and thinks it, whole and in pieces of one character."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk(reasoning=text))
        for piece in (text, *text):
            await exchange.send(chunk(piece))
        await exchange.send(chunk(finish_reason=text))
        await exchange.send(b"data: [DONE]\n\n")
        await exchange.end()

    return script


async def ended(client: Client) -> list[dict[str, Any]]:
    """Read the stream; return what its events say, each of which must be numbered and known, the end once, at last."""
    await client.read_all()
    assert client.complete
    *events, done = client.events
    assert (done.data, done.type) == (b"[DONE]", "message")
    payloads = client.payloads
    assert [event.type for event in client.events] == ["message"] * len(client.events)
    assert [payload["type"] for payload in payloads].count("ended") == 1
    assert payloads[-1]["type"] == "ended" and payloads[-1]["message_id"] != "msg_forged"
    assert len(payloads) == len(events)
    return payloads


def numbered(client: Client) -> bool:
    ids = [event.last_event_id for event in client.events[:-1]]
    return ids == [f"{client.run_id}.{number}" for number in range(len(ids))]


def joined(payloads: list[dict[str, Any]], kind: str) -> str:
    return "".join(payload["text"] for payload in payloads if payload["type"] == kind)


@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
@pytest.mark.parametrize("what", HOSTILE)
async def test_what_a_model_says(service: Service, models: Models, what: str, compare_mode: bool) -> None:
    text = HOSTILE[what]
    client = await service.chat(models.plan(spoken(text)), compare_mode=compare_mode)
    payloads = await ended(client)
    assert numbered(client)
    stored = text.replace("\0", "\ufffd")
    assert joined(payloads, "delta") in (text * 2, stored * 2)
    assert joined(payloads, "reasoning") in (text, stored)
    [answer] = await service.settled(client.session_id)
    assert (answer["content"], answer["reasoning"]) == (stored * 2, stored)
    if not compare_mode:
        await service.until_metric("odysseus_log_bytes", 0)  # the frames are gone: from here on a snapshot stands in
        again = await service.resume(client.session_id)
        snapshot, _ = await ended(again)
        assert (snapshot["type"], snapshot["content"], snapshot["reasoning"]) == ("snapshot", stored * 2, stored)


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_a_tool_is_called_and_says(service: Service, models: Models, what: str) -> None:
    """Its id, its name, its arguments, and its result, which repeats them."""
    text = HOSTILE[what]
    script = in_turn(
        wants((text[:40], text[:60], json.dumps({"a": text})), ("c1", "calculator", json.dumps({"expression": text}))),
        say("So be it."),
    )
    client = await service.chat(models.plan(script), mode="agent")
    payloads = await ended(client)
    assert numbered(client)
    kinds = [payload["type"] for payload in payloads]
    assert kinds.count("tool_call") == kinds.count("tool_result") == 2, payloads
    assert joined(payloads, "delta") == "So be it."
    assert all(payload["is_error"] for payload in payloads if payload["type"] == "tool_result")


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_a_user_says(service: Service, models: Models, what: str) -> None:
    """Titles, system prompts and messages come back and reach the model as they were written, or not at all."""
    text = HOSTILE[what]
    made = await service.post("/api/sessions", {"title": text, "system": text})
    if "\0" in text:
        assert made.status == 422
        return
    assert (made.status, made.json["title"], made.json["system"]) == (201, text, text)
    prompt = models.plan(say("Hello"))
    first = await service.post("/api/chat_stream", {"message": text + "\n\n" + prompt, "session_id": made.json["id"]})
    assert first.status == 200 and first.json.count(b"data: ") == first.json.count(b"\n\n") - first.json.count(b": ok")
    [asked] = models.asked(prompt)
    assert [message["content"] for message in asked.body["messages"]] == [text, text + "\n\n" + prompt]
    seen = (await service.get(f"/api/sessions/{made.json['id']}")).json
    assert (seen["title"], seen["messages"][0]["content"]) == (text, text + "\n\n" + prompt)


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_a_model_server_says_of_its_trouble(service: Service, models: Models, what: str) -> None:
    text = HOSTILE[what].encode()
    client = await service.chat(models.plan(status(400, json.dumps({"error": {"message": text.decode()}}).encode())))
    assert (await ended(client))[-1]["status"] == "error"
    client = await service.chat(models.plan(status(400, text, "text/plain; x=\x1b[31m")))
    assert (await ended(client))[-1]["status"] == "error"
    assert b"forged" not in client.body


@pytest.mark.parametrize(
    "last_event_id", [b"x\x0bdata: [DONE]", b"\xff\xfe.1", b"run_x.-1", b"run_x.1e9", b"." * 4000, b"%0a%0adata: x"]
)
async def test_an_id_that_was_never_given_out(service: Service, models: Models, last_event_id: bytes) -> None:
    client = await service.chat(models.plan(say("Hello")))
    await ended(client)
    path = f"/api/chat/resume/{client.session_id}"
    [answer] = await replies(service, head("GET", path, b"Last-Event-ID: " + last_event_id, "Connection: close"))
    if answer.status == 400:
        assert last_event_id[1] < 0x20
        return
    assert answer.status == 200
    assert answer.body.count(b"data: [DONE]") == 1


# The log

FORGED = "2001-02-03 04:05:06,789 INFO odysseus.runs: run run_forged ended: done"
INTO_LOG = [
    f"\n{FORGED}",
    f"\r\n{FORGED}\r\n",
    f"\r{FORGED}",
    f"\x1b[2K\x1b[1G{FORGED}",
    f"\u2028{FORGED}",
    f"\x85{FORGED}",
]


@pytest.mark.parametrize("way", ["app.py", "gunicorn"])
async def test_no_line_of_the_log_is_forged(models: Models, tmp_path: Path, way: str) -> None:
    async with serving(models, tmp_path, way) as service:
        for text in INTO_LOG:
            escaped = "".join(f"%{byte:02x}" for byte in text.encode())
            await service.post("/api/sessions", {"title": text})
            await service.post("/api/chat_stream", {"message": text, "model": text, "run_id": text})
            await service.get(f"/api/sessions/{escaped}?before={escaped}", User_Agent=text.strip("\r\n\x85"))
            for script in (
                status(400, text.encode() * 2),
                say(text),
                status(200, text.encode(), "text/html"),
                in_turn(wants((text, text, json.dumps({text: text}))), say(text)),
                garbled(text),
            ):
                client = await service.chat(models.plan(script), mode="agent")
                await ended(client)
            await while_the_store_fails(service, f"/api/sessions/{escaped}")
            await replies(service, head("GET", f"/{escaped}", f"X-A: b{text}", "Connection: close"))
            await replies(service, text.encode() + b"\r\n\r\n")
        service.terminate()
        assert await service.wait() == 0
        lines = [part for line in service.log for part in line.splitlines()]
        assert [line for line in lines if line.startswith("2001")] == []
        assert [line for line in lines if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", line)] == []
        assert [line for line in service.log if FORGED in line], "nothing of it got there, so this shows nothing"


def garbled(text: str) -> Script:
    """A script whose chunks have sizes that are *text*."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk("Hello"))
        await exchange.raw(text.encode() + b"\r\n")
        exchange.close()

    return script


async def while_the_store_fails(service: Process, path: str) -> None:
    with closing(sqlite3.connect(service.folder / "odysseus.db")) as database:
        database.execute("ALTER TABLE sessions RENAME TO elsewhere")
        try:
            assert (await service.get(path)).status == 503
        finally:
            database.execute("ALTER TABLE elsewhere RENAME TO sessions")
