"""Answers as HTML, beside their text; and one message alone."""

from __future__ import annotations

import asyncio

from odysseus.web.routes import SERVICE
from tests.fake_upstream import FakeUpstream, say
from tests.waiting import soon
from tests.web.conftest import Serve, Service, Stream


async def answered(service: Service, upstream: FakeUpstream, text: str) -> Stream:
    upstream.script = say(text)
    stream = await service.chat("*Hi* <b>there</b>")
    await stream.rest()
    return stream


async def test_an_ended_answer_has_html(service: Service, upstream: FakeUpstream) -> None:
    stream = await answered(service, upstream, "**Hello** <img src=x onerror=alert(1)>")
    user, answer = await service.messages(stream.session_id)
    assert user["html"] is None
    assert answer["html"] == "<p><strong>Hello</strong> &lt;img src=x onerror=alert(1)&gt;</p>\n"
    assert answer["content"] == "**Hello** <img src=x onerror=alert(1)>"


async def test_not_while_it_streams(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("*Hello*", done=False)
    stream = await service.chat()
    await stream.said("*Hello*")
    path = f"/api/sessions/{stream.session_id}/messages/{stream.seen[0]['message_id']}"
    live = await service.get(path)
    assert (live["content"], live["html"], live["status"]) == ("*Hello*", None, "streaming")
    await service.stop(stream.session_id)
    stopped = await service.get(path)
    assert (stopped["html"], stopped["status"]) == ("<p><em>Hello</em></p>\n", "stopped")


async def test_one_message(service: Service, upstream: FakeUpstream) -> None:
    one, other = await answered(service, upstream, "*a*"), await answered(service, upstream, "b")
    for message in await service.messages(one.session_id):
        assert await service.get(f"/api/sessions/{one.session_id}/messages/{message['id']}") == message
    theirs = (await service.answer(other.session_id))["id"]
    mine = (await service.answer(one.session_id))["id"]
    for session_id, message_id in (
        (one.session_id, theirs),
        (one.session_id, "msg_9"),
        (one.session_id, "%00"),
        ("ses_9", mine),
    ):
        answer = await service.call("GET", f"/api/sessions/{session_id}/messages/{message_id}")
        assert (answer.status, answer.error["code"]) == (404, "not_found")
    await service.call("DELETE", f"/api/sessions/{one.session_id}")
    assert (await service.call("GET", f"/api/sessions/{one.session_id}/messages/{mine}")).status == 404


async def test_somebody_elses_message(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve(auth="proxy", auth_proxy_header="X-User", trusted_proxies=("127.0.0.1",))
    headers = {"X-User": "ann"}
    async with service.client.post("/api/chat_stream", json={"message": "Hi"}, headers=headers) as response:
        stream = Stream(response)
        await stream.rest()
    path = f"/api/sessions/{stream.session_id}/messages/{stream.seen[0]['message_id']}"
    assert (await service.call("GET", path, headers=headers)).status == 200
    assert (await service.call("GET", path, headers={"X-User": "bob"})).status == 404


async def test_a_long_answer_holds_nobody_up(service: Service, upstream: FakeUpstream) -> None:
    """While it is rendered, which takes seconds, the loop goes on: others are answered."""
    stream = await answered(service, upstream, "#\n" * 100_000)
    reading = asyncio.create_task(service.answer(stream.session_id))
    others = 0
    while not reading.done():
        await service.get("/healthz")
        others += 1
    answer = await soon(reading)
    assert answer["html"] == "<h1></h1>\n" * 100_000
    assert others > 10


async def test_a_parser_that_gives_up(service: Service, upstream: FakeUpstream) -> None:
    stream = await answered(service, upstream, "<" + "[" * 100_000)
    assert (await service.answer(stream.session_id))["html"] == f"<pre>&lt;{'[' * 100_000}</pre>"


async def test_what_fails_has_html_too(service: Service, upstream: FakeUpstream) -> None:
    """Also an answer of which nothing came."""
    upstream.script = say(done=False)
    stream = await service.chat()
    await soon(upstream.exchange())
    await service.stop(stream.session_id)
    await stream.rest()
    assert (await service.answer(stream.session_id))["html"] == ""
    assert service.app[SERVICE].runs.live_count == 0
