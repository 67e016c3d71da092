"""Starting a run: as a stream, or as a 202 with the path of one."""

from __future__ import annotations

import pytest

from tests.contract.client import Api
from tests.fake_upstream import say, status
from tests.process.models import Cue, Models, words

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_as_a_stream(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(say("Hello", " world")))
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    await stream.rest()
    assert (stream.kinds[0], stream.text) == ("started", "Hello world")
    assert stream.ids == [f"{stream.run_id}.{seq}" for seq in range(len(stream.payloads))]
    started, ended = stream.payloads[0], stream.payloads[-1]
    assert (started["run_id"], started["session_id"]) == (stream.run_id, stream.session_id)
    assert (started["mode"], started["model"], started["detached"]) == ("chat", "m", True)
    assert (ended["status"], ended["stop_reason"], ended["finish_reason"]) == ("done", None, "stop")
    assert ended["message_id"] == started["message_id"]
    assert ended["usage"]["total_tokens"] == 5


async def test_as_json(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(say("Hello")))
    assert set(run) == {"run_id", "session_id", "message_id", "stream"}
    assert run["stream"] == f"/api/chat/resume/{run['session_id']}"
    stream = await api.watch(run["stream"])
    assert await stream.ending() == ("done", None)
    assert (stream.run_id, stream.session_id) == (run["run_id"], run["session_id"])
    assert stream.payloads[0]["message_id"] == run["message_id"]


async def test_it_is_saved_when_its_end_is_told(api: Api, models: Models) -> None:
    stream = await api.stream(prompt := models.plan(say("Hello")))
    await stream.until("ended")
    user, answer = await api.messages(stream.session_id)
    assert (user["role"], user["content"], user["status"]) == ("user", prompt, "done")
    assert (answer["role"], answer["content"], answer["status"]) == ("assistant", "Hello", "done")
    assert (answer["run_id"], answer["id"]) == (stream.run_id, stream.payloads[-1]["message_id"])


async def test_the_next_turn_knows_the_last(api: Api, models: Models) -> None:
    first = await api.stream(question := models.plan(say("Hello")))
    await first.rest()
    again = models.plan(say("Bye"))
    second = await api.stream(again, session_id=first.session_id)
    await second.rest()
    sent = [(message["role"], message["content"]) for message in models.asked(again)[0].body["messages"]]
    assert sent == [("user", question), ("assistant", "Hello"), ("user", again)]


async def test_it_outlives_its_client(api: Api, models: Models) -> None:
    cue = Cue("Hello")
    stream = await api.stream(models.plan(cue))
    await stream.read_text("Hello")
    stream.close()
    cue.say(" world")
    cue.end()
    [answer] = await api.settled(stream.session_id)
    assert (answer["status"], answer["content"]) == ("done", "Hello world")


async def test_nobody_has_to_watch(api: Api, models: Models) -> None:
    script, said = words(20)
    run = await api.accepted(models.plan(script))
    [answer] = await api.settled(run["session_id"])
    assert (answer["status"], answer["content"], answer["id"]) == ("done", said, run["message_id"])


async def test_a_model_of_its_own(api: Api, models: Models) -> None:
    stream = await api.stream(prompt := models.plan(say("Hello")), model="n", system="Be short", temperature=0.5)
    await stream.rest()
    body = models.asked(prompt)[0].body
    assert (body["model"], body["temperature"], body["messages"][0]["content"]) == ("n", 0.5, "Be short")
    assert stream.payloads[0]["model"] == (await api.answer(stream.session_id))["model"] == "n"


async def test_a_model_server_that_refuses(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(status(400)))
    assert await stream.ending() == ("error", "upstream_error")
    assert stream.kinds == ["started", "error", "ended"]
    assert (await api.answer(stream.session_id))["status"] == "error"
