"""What the service logs of its runs: one line of each that ended, its ids with all that happens in it, no message."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from odysseus.logs import JsonFormatter, TextFormatter
from tests.fake_upstream import FakeUpstream, say, status
from tests.waiting import until
from tests.web.conftest import MODELS, Serve, Service
from tests.web.test_accounts import SECRET, bearer


@pytest.fixture
def output() -> Iterator[dict[str, io.StringIO]]:
    """All that is logged, in each way in which it can be."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.INFO)
    logging.getLogger("odysseus").setLevel(logging.DEBUG)
    kinds = {
        "json": JsonFormatter(),
        "text": TextFormatter(),
        "json with texts": JsonFormatter(messages=True),
        "text with texts": TextFormatter(messages=True),
    }
    handlers = []
    streams = {name: io.StringIO() for name in kinds}
    for name, formatter in kinds.items():
        handler = logging.StreamHandler(streams[name])
        handler.setFormatter(formatter)
        root.addHandler(handler)
        handlers.append(handler)
    yield streams
    root.setLevel(level)
    logging.getLogger("odysseus").setLevel(logging.NOTSET)
    for handler in handlers:
        root.removeHandler(handler)


def endings(stream: io.StringIO) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [record for record in records if record["message"] == "run ended"]


async def test_one_line_a_run(service: Service, upstream: FakeUpstream, output: dict[str, io.StringIO]) -> None:
    done = await service.chat()
    await done.rest()
    upstream.script = say("Hello", done=False)
    stopped = await service.chat(session_id=done.session_id, model="n")
    await stopped.said("Hello")
    pane = await service.open("GET", (await service.compare(*MODELS))["panes"][0]["stream"])
    await pane.said("Hello")
    await service.stop(done.session_id)
    pane.leave()
    await until(lambda: len(endings(output["json"])) == 3)
    lines = {line["run_id"]: line for line in endings(output["json"])}
    told = [
        (line["session_id"], line["model"], line["detached"], line["status"], line["stop_reason"])
        for line in (lines[stream.run_id] for stream in (done, stopped, pane))
    ]
    assert told == [
        (done.session_id, "m", True, "done", None),
        (done.session_id, "n", True, "stopped", "user_stop"),
        (pane.session_id, "m", False, "stopped", "client_disconnect"),
    ]
    ended = next(event for event in done.seen if event["type"] == "ended")
    first = lines[done.run_id]
    assert {name: first[name] for name in ("ttft_ms", "duration_ms")} == ended["timings"]
    assert first["events"] == len(done.frames) - 1
    usage = ended["usage"] or {"prompt_tokens": None, "completion_tokens": None}
    assert (first["prompt_tokens"], first["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert "owner" not in first


async def test_the_owner_can_not_forge_a_field(
    serve: Serve, upstream: FakeUpstream, output: dict[str, io.StringIO]
) -> None:
    owner = 'ann" status="error" 2026-01-01 ERROR'
    service = await serve(auth="jwt", auth_jwt_secret=SECRET)
    stream = await service.open("POST", "/api/chat_stream", {"message": "Hi"}, headers=bearer(owner))
    await stream.rest()
    [line] = endings(output["json"])
    assert (line["owner"], line["status"]) == (owner, "done")
    [text] = [line for line in output["text"].getvalue().splitlines() if " run ended " in line]
    assert f" owner={json.dumps(owner)} " in text


async def test_what_was_said_is_not_logged(
    service: Service, upstream: FakeUpstream, output: dict[str, io.StringIO]
) -> None:
    """Unless it is asked for. Model servers that refuse a message repeat it, too."""
    upstream.script = say("the sesame", " opens")
    await (await service.chat("open, sesame")).rest()
    upstream.script = status(400, b'{"error": "bad message: open, sesame"}')
    await (await service.chat("open, sesame")).rest()
    for kind in ("json", "text"):
        assert output[kind].getvalue() and "sesame" not in output[kind].getvalue()
    first, second = endings(output["json with texts"])
    assert (first["user_message"], first["answer"]) == ("open, sesame", "the sesame opens")
    assert (second["user_message"], second["answer"]) == ("open, sesame", "")
    for kind in ("json with texts", "text with texts"):
        assert "bad message: open, sesame" in output[kind].getvalue()


async def test_what_happens_in_a_run_names_it(
    service: Service, upstream: FakeUpstream, output: dict[str, io.StringIO]
) -> None:
    upstream.script = status(404)
    stream = await service.chat()
    await stream.rest()
    records = [json.loads(line) for line in output["json"].getvalue().splitlines()]
    [refused] = [record for record in records if record["logger"] == "odysseus.upstream.client"]
    assert (refused["run_id"], refused["session_id"]) == (stream.run_id, stream.session_id)
