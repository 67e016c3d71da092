"""Agent mode as its users meet it: calls and results in the stream, approvals, and what a session keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.fake_upstream import Exchange, FakeUpstream, Script, in_turn, say, wants
from tests.message_rules import check_request
from tests.waiting import soon, until
from tests.web.conftest import Serve, Service, Stream
from tests.web.test_ops import metrics

SUM = ("c1", "calculator", '{"expression": "17 * 23"}')
CALLED = {"type": "tool_call", "call_id": "c1", "name": "calculator", "arguments": {"expression": "17 * 23"}}
RESULT = {"type": "tool_result", "call_id": "c1", "name": "calculator", "output": "391", "is_error": False}
STOPPED = RESULT | {"output": "stopped", "is_error": True}


def strict(script: Script) -> Script:
    """Return *script*, in front of it a provider that takes no conversation with a mistake in it."""

    async def checked(exchange: Exchange) -> None:
        check_request(exchange.body)
        await script(exchange)

    return checked


def plays(upstream: FakeUpstream, *turns: Script) -> None:
    upstream.script = strict(in_turn(*turns))


def timeless(events: Sequence[Any]) -> list[Any]:
    """Return *events* without how long tools took."""
    return [{key: value for key, value in event.items() if key != "duration_ms"} for event in events]


def kinds(stream: Stream) -> list[str]:
    return [event["type"] for event in stream.seen[:-1]]


async def test_calls_results_and_the_answer(service: Service, upstream: FakeUpstream) -> None:
    plays(upstream, wants(SUM), say("It is 391."))
    stream = await service.chat("What is 17 * 23?", mode="agent")
    await stream.rest()
    assert kinds(stream) == ["started", "tool_call", "tool_result", "delta", "usage", "ended"]
    assert stream.seen[0]["mode"] == "agent"
    assert timeless(stream.seen[1:3]) == [CALLED, RESULT]
    assert stream.seen[2]["duration_ms"] >= 0
    assert stream.seen[-2]["finish_reason"] == "stop"
    answer = await service.answer(stream.session_id)
    assert timeless(answer["parts"]) == [CALLED, RESULT, {"type": "text", "text": "It is 391."}]
    assert answer["content"] == "It is 391."
    assert (await service.status(stream.session_id))["mode"] == "agent"
    again = await service.resume(stream.session_id)
    await again.rest()
    assert again.frames == stream.frames


async def test_what_goes_back_to_the_model(service: Service, upstream: FakeUpstream) -> None:
    """The next turn, also one without tools, finds calls and results where they were."""
    plays(upstream, wants(SUM), say("391"), say("Yes"))
    stream = await service.chat("What is 17 * 23?", mode="agent")
    await stream.rest()
    await (await service.chat("Sure?", session_id=stream.session_id)).rest()
    first, second, third = upstream.exchanges
    assert [tool["function"]["name"] for tool in first.body["tools"]] == [
        "calculator",
        "current_time",
        "search_sessions",
    ]
    assert second.body["tools"] == first.body["tools"]
    assert "tools" not in third.body
    assert second.body["messages"] == third.body["messages"][:3]
    assert third.body["messages"] == [
        {"role": "user", "content": "What is 17 * 23?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "calculator", "arguments": '{"expression":"17 * 23"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "391"},
        {"role": "assistant", "content": "391"},
        {"role": "user", "content": "Sure?"},
    ]


async def test_after_a_restart(serve: Serve, upstream: FakeUpstream) -> None:
    plays(upstream, wants(SUM), say("391"), say("Yes"))
    first = await serve()
    stream = await first.chat("What is 17 * 23?", mode="agent")
    await stream.rest()
    await first.close()
    second = await serve()
    snapshot, ended, _ = await (await second.resume(stream.session_id)).rest()
    assert timeless(snapshot["parts"]) == [CALLED, RESULT, {"type": "text", "text": "391"}]
    assert ended["type"] == "ended"
    assert await (await second.chat("Sure?", session_id=stream.session_id, mode="agent")).text() == "Yes"


async def test_wrong_calls_go_back_to_the_model(service: Service, upstream: FakeUpstream) -> None:
    calls = [
        ("c1", "calculator", '{"expr": "1"}'),
        ("c2", "calculator", '{"expression": "1/0"}'),
        ("c3", "fetch_url", '{"url": "http://127.0.0.1/"}'),  # it is off
        ("c4", "current_time", "{}"),
    ]
    plays(upstream, wants(*calls), say("Sorry"))
    stream = await service.chat(mode="agent")
    assert await stream.ended() == ("done", None)
    results = {event["call_id"]: event for event in stream.seen[:-1] if event["type"] == "tool_result"}
    assert [results[f"c{n}"]["is_error"] for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert "expression: Field required" in results["c1"]["output"]
    assert results["c3"]["output"].startswith("there is no tool fetch_url; there are: calculator")
    told = {message["tool_call_id"]: message["content"] for message in upstream.exchanges[1].body["messages"][2:]}
    assert told == {call_id: result["output"] for call_id, result in results.items()}


async def test_too_many_rounds(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve(max_tool_rounds=3)
    plays(upstream, wants(SUM))
    stream = await service.chat(mode="agent")
    assert await stream.ended() == ("done", None)
    assert stream.seen[-2]["finish_reason"] == "tool_rounds"
    assert (await metrics(service))["odysseus_tool_rounds_used_up_total",] == 1
    assert kinds(stream).count("tool_result") == 3 == len(upstream.exchanges)
    answer = await service.answer(stream.session_id)
    assert (answer["status"], len(answer["parts"])) == ("done", 6)
    plays(upstream, say("Fine"))
    assert await (await service.chat(session_id=stream.session_id, mode="agent")).text() == "Fine"


async def test_a_failing_model_in_the_middle(service: Service, upstream: FakeUpstream) -> None:
    async def fails(exchange: Exchange) -> None:
        await exchange.head(400, content_type="application/json")
        await exchange.end()

    plays(upstream, wants(SUM), fails, say("Again"))
    stream = await service.chat(mode="agent")
    assert await stream.ended() == ("error", "upstream_error")
    assert timeless((await service.answer(stream.session_id))["parts"]) == [CALLED, RESULT]
    assert await (await service.chat(session_id=stream.session_id, mode="agent")).text() == "Again"


async def test_in_a_chat_no_tool_is_called(service: Service, upstream: FakeUpstream) -> None:
    """Although the model wants it, without having been offered one."""
    upstream.script = wants(SUM)
    stream = await service.chat()
    assert await stream.ended() == ("done", None)
    assert kinds(stream) == ["started", "ended"]


async def test_a_compare_with_tools(service: Service, upstream: FakeUpstream) -> None:
    upstream.scripts = {"m": in_turn(wants(SUM), say("391")), "n": say("I guess 400")}
    compare = await service.compare("m", "n", mode="agent")
    for pane, text in zip(compare["panes"], ("391", "I guess 400"), strict=True):
        assert await (await service.open("GET", pane["stream"])).text() == text
    assert [pane["text"] for pane in (await service.get(f"/api/compare/{compare['compare_id']}"))["panes"]] == [
        "391", "I guess 400"
    ]  # fmt: skip


# Approval

WAITING = {"call_id": "c1", "name": "calculator", "arguments": {"expression": "17 * 23"}}


async def waiting(service: Service, upstream: FakeUpstream) -> Stream:
    """Return the stream of a run whose call waits for approval."""
    plays(upstream, wants(SUM), say("Well"))
    stream = await service.chat(mode="agent")
    request = await stream.until("approval_request")
    assert request == {"type": "approval_request", **WAITING}
    return stream


async def decide(service: Service, session_id: str, **body: Any) -> Any:
    return await service.call("POST", f"/api/chat/approve/{session_id}", body)


@pytest.fixture
async def careful(serve: Serve) -> Service:
    return await serve(tools_need_approval=("calculator",))


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ({"decision": "allow"}, RESULT),
        ({"decision": "deny"}, RESULT | {"output": "denied by the user", "is_error": True}),
        ({"decision": "deny", "reason": "no"}, RESULT | {"output": "denied: no", "is_error": True}),
    ],
)
async def test_a_decision(careful: Service, upstream: FakeUpstream, body: Any, result: Any) -> None:
    """The wait outlives its client, is shown to whoever asks, and ends once."""
    stream = await waiting(careful, upstream)
    stream.leave()
    assert (await careful.status(stream.session_id))["approvals"] == [WAITING]
    answer = await decide(careful, stream.session_id, call_id="c1", **body)
    assert (answer.status, answer.body) == (200, {"call_id": "c1", "decision": body["decision"]})
    again = await careful.resume(stream.session_id)
    assert await again.ended() == ("done", None)
    assert timeless(event for event in again.seen[:-1] if event["type"] == "tool_result") == [result]
    late = await decide(careful, stream.session_id, call_id="c1", **body)
    assert (late.status, late.error["code"]) == (409, "already_decided")
    assert (await careful.status(stream.session_id))["approvals"] == []


async def test_wrong_decisions(careful: Service, upstream: FakeUpstream) -> None:
    stream = await waiting(careful, upstream)
    for body, field in (
        ({"call_id": "c1"}, "decision"),
        ({"call_id": "c1", "decision": "maybe"}, "decision"),
        ({"decision": "allow"}, "call_id"),
        ({"call_id": "c1", "decision": "allow", "reason": 5}, "reason"),
        ({"call_id": "c1", "decision": "allow", "raeson": "x"}, "raeson"),
    ):
        answer = await decide(careful, stream.session_id, **body)
        assert (answer.status, answer.error["field"]) == (422, field)
    for session_id, call_id in (("ses_nope", "c1"), (stream.session_id, "c2")):
        answer = await decide(careful, session_id, call_id=call_id, decision="allow")
        assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert (await careful.status(stream.session_id))["approvals"] == [WAITING]
    assert (await careful.stop(stream.session_id))["stopped"]


async def test_stopped_while_it_waits(careful: Service, upstream: FakeUpstream) -> None:
    stream = await waiting(careful, upstream)
    assert (await careful.stop(stream.session_id))["status"] == "stopped"
    assert await stream.ended() == ("stopped", "user_stop")
    assert kinds(stream) == ["started", "tool_call", "approval_request", "tool_result", "ended"]
    assert timeless(stream.seen[3:4]) == [STOPPED]
    answer = await careful.answer(stream.session_id)
    assert timeless(answer["parts"]) == [CALLED, STOPPED]
    assert answer["parts"][1]["duration_ms"] is None
    answer = await decide(careful, stream.session_id, call_id="c1", decision="allow")
    assert (answer.status, answer.error["code"]) == (409, "already_decided")
    plays(upstream, say("Fine"))
    assert await (await careful.chat(session_id=stream.session_id, mode="agent")).text() == "Fine"


async def test_in_a_compare_it_is_denied(careful: Service, upstream: FakeUpstream) -> None:
    plays(upstream, wants(SUM), say("Well"))
    stream = await careful.chat(mode="agent", compare_mode=True)
    assert await stream.ended() == ("done", None)
    [result] = [event for event in stream.seen[:-1] if event["type"] == "tool_result"]
    assert (result["is_error"], "compare" in result["output"]) == (True, True)


async def test_an_approval_that_does_not_come(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve(tools_need_approval=("calculator",), approval_timeout_s=0.2)
    stream = await waiting(service, upstream)
    assert await stream.ended() == ("done", None)
    [result] = [event for event in stream.seen[:-1] if event["type"] == "tool_result"]
    assert result["output"] == "denied: nobody approved it within 0.2 s"


# What there is


async def test_tools(serve: Serve) -> None:
    service = await serve(tools=("current_time", "calculator"), tools_need_approval=("calculator",))
    answer = await service.get("/api/tools")
    assert answer["servers"] == []
    assert [(tool["name"], tool["source"], tool["needs_approval"]) for tool in answer["tools"]] == [
        ("current_time", "built-in", False),
        ("calculator", "built-in", True),
    ]
    for tool in answer["tools"]:
        assert tool["description"]
        assert tool["parameters"]["type"] == "object"


async def test_it_finds_what_was_said_elsewhere(service: Service, upstream: FakeUpstream) -> None:
    plays(upstream, say("Lisbon is lovely in May."))
    other = await service.chat("Where shall we go?")
    await other.rest()
    plays(upstream, wants(("c1", "search_sessions", '{"query": "lovely lisbon"}')), say("Lisbon"))
    stream = await service.chat("Where did we want to go?", mode="agent")
    result = await stream.until("tool_result")
    assert "Lisbon is lovely in May." in result["output"]
    assert other.session_id in result["output"]


async def test_the_log_limit_holds_for_tools_too(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve(max_log_bytes=2000)
    plays(upstream, wants(*((f"c{n}", "calculator", '{"expression": "1"}') for n in range(30))), say("never"))
    stream = await service.chat(mode="agent")
    assert await stream.ended() == ("stopped", "log_limit")
    answer = await service.answer(stream.session_id)
    called = [part["call_id"] for part in answer["parts"] if part["type"] == "tool_call"]
    assert [part["call_id"] for part in answer["parts"] if part["type"] == "tool_result"] == called
    await until(lambda: upstream.connections == 0)
    plays(upstream, say("Fine"))
    assert await soon((await service.chat(session_id=stream.session_id)).text()) == "Fine"
