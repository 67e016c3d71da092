"""The model-tool loop, in virtual time. The model that is asked takes nothing that a strict provider wouldn't."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from odysseus.agent import Agent, AgentLimits, AgentPiece
from odysseus.approvals import Approvals, Decision, Verdict
from odysseus.events import ApprovalRequest, ToolCall, ToolResult
from odysseus.tasks import Tasks
from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.toolbox import Toolbox
from odysseus.upstream import Ask, Call, Finish, Piece, Reasoning, Text, Tokens
from odysseus.upstream.chat_completions import request_body
from tests.message_rules import check_request
from tests.virtual_time import now, run_virtual

Work = Callable[[Mapping[str, Any]], Awaitable[str]]


class ScriptedModel:
    """Answers each ask with the next of *turns*; a turn is the pieces of one read each."""

    def __init__(self, *turns: Sequence[Piece]) -> None:
        self.turns = list(turns)
        self.asks: list[dict[str, Any]] = []
        self.open = 0

    async def ask(self, ask: Ask) -> AsyncGenerator[Sequence[Piece], None]:
        body = json.loads(request_body(ask))
        check_request(body)
        self.asks.append(body)
        self.open += 1
        try:
            for piece in self.turns.pop(0):
                await asyncio.sleep(0)
                yield [piece]
        finally:
            self.open -= 1


def tool(name: str, work: Work, *, needs_approval: bool = False) -> Tool:
    async def call(arguments: Mapping[str, Any], caller: Caller) -> str:
        assert caller == Caller("ses")
        return await work(arguments)

    schema = {"type": "object", "properties": {}}
    return Tool(name=name, description=name, parameters=schema, source="test", needs_approval=needs_approval, call=call)


async def echo(arguments: Mapping[str, Any]) -> str:
    return orjson.dumps(arguments).decode()


async def never(_: Mapping[str, Any]) -> str:
    await asyncio.Event().wait()
    raise AssertionError


class Stage:
    """An agent, and what it has said so far."""

    def __init__(
        self,
        model: ScriptedModel,
        *tools: Tool,
        approvals: Approvals | None = None,
        **limits: Any,
    ) -> None:
        self.model = model
        self.tasks = Tasks()
        self.pieces: list[AgentPiece] = []
        self._agent = Agent(
            model, Toolbox(tools), replace(AgentLimits(), **limits), Caller("ses"), approvals, self.tasks
        )

    async def play(self) -> list[AgentPiece]:
        ask = Ask(model="m", messages=[{"role": "user", "content": "Hi"}])
        generator = self._agent.ask(ask)
        try:
            async for pieces in generator:
                assert pieces
                self.pieces += pieces
        finally:
            await generator.aclose()
            assert self.model.open == 0
        return self.pieces

    @property
    def results(self) -> dict[str, tuple[bool, str]]:
        return {it.call_id: (it.is_error, it.output) for it in self.pieces if isinstance(it, ToolResult)}


def played(*turns: Sequence[Piece], tools: Sequence[Tool] = (), **limits: Any) -> Stage:
    stage = Stage(ScriptedModel(*turns), *tools, **limits)
    run_virtual(stage.play())
    return stage


def wants(*calls: Call, finish: str = "tool_calls") -> list[Piece]:
    return [*calls, Finish(finish)]


SAYS = [Text("Hello"), Finish("stop")]
ECHO = tool("echo", echo)


# The loop


def test_an_answer_without_calls() -> None:
    turn = [Reasoning("Hm"), Text("Hello"), Finish("stop"), Tokens(usage(1, 2))]
    stage = played(turn, tools=[ECHO])
    assert stage.pieces == [Reasoning("Hm"), Text("Hello"), Tokens(usage(1, 2)), Finish("stop")]
    [asked] = stage.model.asks
    assert asked["tools"] == [
        {
            "type": "function",
            "function": {"name": "echo", "description": "echo", "parameters": {"type": "object", "properties": {}}},
        }
    ]


def test_without_tools_a_model_is_offered_none() -> None:
    assert "tools" not in played(SAYS).model.asks[0]


def test_calls_their_results_and_the_answer() -> None:
    first = [Text("Let me see."), *wants(Call("c1", "echo", '{"x": 1}'), Call("c2", "echo", ""))]
    second = wants(Call("c3", "echo", "{}"))
    stage = played(first, second, SAYS, tools=[ECHO])
    assert [replace(it, duration_ms=0) if isinstance(it, ToolResult) else it for it in stage.pieces] == [
        Text("Let me see."),
        ToolCall("c1", "echo", {"x": 1}),
        ToolCall("c2", "echo", {}),
        ToolResult("c1", "echo", '{"x":1}', False, 0),
        ToolResult("c2", "echo", "{}", False, 0),
        ToolCall("c3", "echo", {}),
        ToolResult("c3", "echo", "{}", False, 0),
        Text("Hello"),
        Finish("stop"),
    ]
    assert stage.model.asks[2]["messages"][1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "echo", "arguments": '{"x":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "echo", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"x":1}'},
        {"role": "tool", "tool_call_id": "c2", "content": "{}"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "echo", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c3", "content": "{}"},
    ]


def usage(prompt: int, completion: int) -> Any:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def test_tokens_are_counted_over_all_rounds() -> None:
    """A server may tell several times in one answer; the last of them counts."""
    first = [*wants(Call("c1", "echo", "")), Tokens(usage(5, 1)), Tokens(usage(10, 2))]
    stage = played(first, [Tokens(usage(20, 3)), *SAYS], tools=[ECHO])
    told = [it.usage for it in stage.pieces if isinstance(it, Tokens)]
    assert told == [usage(5, 1), usage(10, 2), usage(30, 5)]


def test_after_the_last_round_the_model_is_not_asked_again() -> None:
    turns = [wants(Call(f"c{number}", "echo", "")) for number in range(4)]
    stage = played(*turns, tools=[ECHO], max_tool_rounds=3)
    assert stage.pieces[-1] == Finish("tool_rounds")
    assert (len(stage.model.asks), list(stage.results)) == (3, ["c0", "c1", "c2"])


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_calls_of_a_turn_that_was_cut_off_are_not_made(reason: str) -> None:
    stage = played([Text("I"), *wants(Call("c1", "echo", '{"x'), finish=reason)], tools=[ECHO])
    assert stage.pieces == [Text("I"), Finish(reason)]


def test_calls_count_whatever_the_finish_reason_says() -> None:
    stage = played(wants(Call("c1", "echo", ""), finish="stop"), [Call("c2", "echo", "")], SAYS, tools=[ECHO])
    assert list(stage.results) == ["c1", "c2"]


def test_ids_that_cannot_be_used_are_replaced() -> None:
    ids = ("", "c1", "c1", "ä", "x" * 65, "a b")
    stage = played(wants(*(Call(id_, "echo", "") for id_ in ids)), wants(Call("c1", "echo", "")), SAYS, tools=[ECHO])
    given = [it.call_id for it in stage.pieces if isinstance(it, ToolCall)]
    assert given[1] == "c1"
    assert len(set(given)) == 7 == len(stage.results)
    assert all(id_.startswith("call_") for id_ in given if id_ != "c1")


# Side by side


def test_calls_work_side_by_side_up_to_a_limit() -> None:
    working: set[int] = set()
    most = 0

    async def work(arguments: Mapping[str, Any]) -> str:
        nonlocal most
        working.add(arguments["n"])
        most = max(most, len(working))
        await asyncio.sleep(10 - arguments["n"])
        working.discard(arguments["n"])
        return str(now())

    calls = [Call(f"c{n}", "work", json.dumps({"n": n})) for n in range(6)]
    stage = played(wants(*calls), SAYS, tools=[tool("work", work)], max_parallel_tools=3)
    assert most == 3
    finished = {"c2": "8.0", "c1": "9.0", "c0": "10.0", "c3": "15.0", "c4": "15.0", "c5": "15.0"}
    assert {call_id: output for call_id, (_, output) in stage.results.items()} == finished
    assert list(stage.results)[:3] == ["c2", "c1", "c0"]  # as they come, not as they were asked for


# Hostile calls: what the model is told


async def raises(_: Mapping[str, Any]) -> str:
    raise RuntimeError("a secret of the inside")


async def refuses(_: Mapping[str, Any]) -> str:
    raise ToolError("there is no such city")


async def huge(_: Mapping[str, Any]) -> str:
    return "ä" * 50_000_000


async def odd(_: Mapping[str, Any]) -> str:
    return "a\0b\ud800"


async def cancels_itself(_: Mapping[str, Any]) -> str:
    raise asyncio.CancelledError


async def clings(_: Mapping[str, Any]) -> str:
    """Take no notice of the first cancel."""
    try:
        await asyncio.sleep(10_000)
    except asyncio.CancelledError:
        await asyncio.sleep(500)
    return "late"


NOT_JSON = "the arguments aren't a JSON object"


@pytest.mark.parametrize(
    ("call", "is_error", "told"),
    [
        pytest.param(Call("c", "echo", "{oops"), True, NOT_JSON, id="invalid JSON"),
        pytest.param(Call("c", "echo", "[1]"), True, f"{NOT_JSON} (not an object)", id="an array"),
        pytest.param(Call("c", "echo", '"x"'), True, NOT_JSON, id="a string"),
        pytest.param(Call("c", "echo", "null"), True, NOT_JSON, id="null"),
        pytest.param(Call("c", "echo", '{"x": NaN}'), True, NOT_JSON, id="NaN"),
        pytest.param(Call("c", "echo", '{"x": "\\u0000"}'), True, NOT_JSON, id="NUL"),
        pytest.param(Call("c", "echo", '{"x": "\\ud800"}'), True, NOT_JSON, id="half a surrogate"),
        pytest.param(Call("c", "echo", '{"x":' * 300 + "1" + "}" * 300), True, NOT_JSON, id="too deep"),
        pytest.param(Call("c", "echo", '{"x":' * 9999), True, NOT_JSON, id="far too deep"),
        pytest.param(Call("c", "echo", "x" * 500_000), True, NOT_JSON, id="long and invalid"),
        pytest.param(Call("c", "echo", '{"x": 123456789012345678901234567890}'), False, '{"x":1.2345', id="a huge int"),
        pytest.param(Call("c", "nope", "{}"), True, "there is no tool nope; there are: echo, raises", id="unknown"),
        pytest.param(Call("c", "", "{}"), True, "there is no tool unnamed", id="no name"),
        pytest.param(Call("c", "rm -rf /; ä" * 20, "{}"), True, "there is no tool rm_-rf___", id="a hostile name"),
        pytest.param(Call("c", "raises", "{}"), True, "the tool failed (RuntimeError)", id="raises"),
        pytest.param(Call("c", "refuses", "{}"), True, "there is no such city", id="refuses"),
        pytest.param(Call("c", "never", "{}"), True, "stopped: it took longer than 60 s", id="never returns"),
        pytest.param(Call("c", "clings", "{}"), True, "stopped: it took longer than 60 s", id="clings"),
        pytest.param(Call("c", "cancels_itself", "{}"), True, "the tool gave up", id="cancels itself"),
        pytest.param(Call("c", "huge", "{}"), False, "ä" * 32_000 + "\n[cut: the first 32000 of", id="50 MB"),
        pytest.param(Call("c", "odd", "{}"), False, "a\ufffdb\ufffd", id="not storable"),
    ],
)
def test_a_hostile_call(call: Call, is_error: bool, told: str) -> None:
    """The model learns what was wrong, the history stays one that a strict provider takes, and the run goes on."""
    tools = [tool(work.__name__, work) for work in (echo, raises, refuses, never, clings, cancels_itself, huge, odd)]

    async def play(stage: Stage) -> None:
        await stage.play()
        await asyncio.sleep(1000)  # until the last of them has ended

    stage = Stage(ScriptedModel(wants(call), SAYS), *tools)
    run_virtual(play(stage))
    [(was_error, output)] = stage.results.values()
    assert (was_error, output[: len(told)]) == (is_error, told)
    assert len(output) < 33_000
    assert "secret" not in output
    assert stage.pieces[-2:] == [Text("Hello"), Finish("stop")]


def test_a_hundred_calls_at_once() -> None:
    stage = played(wants(*(Call(f"c{n}", "echo", "") for n in range(100))), SAYS, tools=[ECHO])
    assert [is_error for is_error, _ in stage.results.values()].count(False) == 32
    assert stage.results["c99"] == (True, "not run: at most 32 calls at once are")
    assert len(stage.results) == 100


# Approval


def with_approval(*works: Work, approvals: Approvals | None, turns: Sequence[Sequence[Piece]]) -> Stage:
    tools = [tool(work.__name__, work, needs_approval=True) for work in works]
    return Stage(ScriptedModel(*turns), *tools, approvals=approvals)


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        (Verdict(Decision.ALLOW), (False, '{"x":1}')),
        (Verdict(Decision.DENY), (True, "denied by the user")),
        (Verdict(Decision.DENY, "not on a Friday"), (True, "denied: not on a Friday")),
        (None, (True, "denied: nobody approved it within 300 s")),
    ],
)
def test_approval(verdict: Verdict | None, result: tuple[bool, str]) -> None:
    approvals = Approvals()
    stage = with_approval(echo, approvals=approvals, turns=[wants(Call("c1", "echo", '{"x":1}')), SAYS])

    async def play() -> None:
        agent = asyncio.create_task(stage.play())
        await asyncio.sleep(200)
        assert stage.pieces == [ToolCall("c1", "echo", {"x": 1}), ApprovalRequest("c1", "echo", {"x": 1})]
        assert approvals.waiting() == [ApprovalRequest("c1", "echo", {"x": 1})]
        if verdict is not None:
            approvals.decide("c1", verdict)
        await agent
        assert approvals.waiting() == []

    run_virtual(play())
    assert stage.results == {"c1": result}


def test_where_nobody_can_be_asked_it_is_denied_at_once() -> None:
    stage = with_approval(echo, approvals=None, turns=[wants(Call("c1", "echo", "")), SAYS])

    async def play() -> None:
        await stage.play()
        assert now() == 0

    run_virtual(play())
    [(is_error, output)] = stage.results.values()
    assert is_error
    assert "compare" in output
    assert not any(isinstance(it, ApprovalRequest) for it in stage.pieces)


def test_calls_that_wait_for_approval_hold_no_other_up() -> None:
    approvals = Approvals()
    asked = [Call(f"a{n}", "never", "") for n in range(20)]
    stage = Stage(
        ScriptedModel(wants(*asked, Call("c1", "echo", "")), SAYS),
        tool("never", never, needs_approval=True),
        ECHO,
        approvals=approvals,
    )

    async def play() -> None:
        agent = asyncio.create_task(stage.play())
        await asyncio.sleep(1)
        assert list(stage.results) == ["c1"]
        assert len(approvals.waiting()) == 20
        agent.cancel()
        await asyncio.wait({agent})
        assert approvals.waiting() == []

    run_virtual(play())


# Stopped


@pytest.mark.parametrize("clinging", [False, True])
@pytest.mark.parametrize("how_many", [1, 3, 20])
def test_stopped_while_tools_are_at_work(how_many: int, clinging: bool) -> None:
    cancelled = 0

    async def work(_: Mapping[str, Any]) -> str:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            if clinging:
                await asyncio.sleep(500)
            raise
        return ""

    calls = [Call(f"c{n}", "work", "") for n in range(how_many)]
    stage = Stage(ScriptedModel(wants(*calls)), tool("work", work), max_parallel_tools=8)

    async def play() -> None:
        agent = asyncio.create_task(stage.play())
        await asyncio.sleep(5)
        agent.cancel()
        await asyncio.wait({agent})
        assert agent.cancelled()
        assert now() <= (8 if clinging else 5)
        assert cancelled == min(how_many, 8)
        await stage.tasks.drain(1000)

    run_virtual(play())
    assert stage.results == {}
