"""The model-tool loop, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from odysseus.approvals import Approvals, Decision, Verdict
from odysseus.conversation import spoken
from odysseus.events import ApprovalRequest, Part, ToolCall, ToolResult
from odysseus.upstream import Call, Finish, Piece, Reasoning, Text, Tokens
from tests.agent_stage import ECHO, SAYS, ScriptedModel, Stage, Work, echo, never, played, tool, wants
from tests.virtual_time import now, run_virtual

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


def test_ids_of_earlier_answers_are_not_used_again() -> None:
    """Else a decision about a call of theirs could meet one of this run."""
    model = ScriptedModel(wants(Call("call_0", "echo", "")), SAYS)
    stage = Stage(model, ECHO)
    earlier: list[Part] = [
        {"type": "tool_call", "call_id": "call_0", "name": "echo", "arguments": {}},
        {
            "type": "tool_result",
            "call_id": "call_0",
            "name": "echo",
            "output": "",
            "is_error": False,
            "duration_ms": 1.0,
        },
    ]
    run_virtual(stage.play(*spoken(earlier)))
    [call_id] = stage.results
    assert call_id != "call_0"


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
