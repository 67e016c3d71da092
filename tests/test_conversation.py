from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odysseus.answer import with_stopped_results
from odysseus.conversation import conversation, spoken
from odysseus.events import Part
from odysseus.messages import Message, Role
from odysseus.states import Status
from tests.message_rules import check_request


def text(words: str) -> Part:
    return {"type": "text", "text": words}


def thought(words: str) -> Part:
    return {"type": "reasoning", "text": words}


def call(call_id: str, **arguments: Any) -> Part:
    return {"type": "tool_call", "call_id": call_id, "name": "add", "arguments": arguments}


def result(call_id: str, output: str = "2") -> Part:
    return {
        "type": "tool_result",
        "call_id": call_id,
        "name": "add",
        "output": output,
        "is_error": False,
        "duration_ms": 1.0,
    }


def called(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "add", "arguments": arguments}}


def assistant(content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def tool(call_id: str, output: str = "2") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": output}


def message(role: Role, *parts: Part) -> Message:
    content = "".join(part["text"] for part in parts if part["type"] == "text")
    return Message(
        id="msg",
        session_id="ses",
        role=role,
        content=content,
        reasoning="",
        parts=list(parts),
        status=Status.DONE,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("parts", "messages"),
    [
        ([], []),
        ([thought("Hm")], []),
        ([text("Hi")], [assistant("Hi")]),
        ([text("a"), thought("Hm"), text("b")], [assistant("ab")]),
        (
            [thought("Hm"), text("Let me see."), call("c1", a=1), result("c1"), text("It is 2.")],
            [assistant("Let me see.", called("c1", '{"a":1}')), tool("c1"), assistant("It is 2.")],
        ),
        (
            [call("c1"), call("c2"), result("c2", "two"), result("c1", "one")],
            [assistant(None, called("c1"), called("c2")), tool("c2", "two"), tool("c1", "one")],
        ),
        (
            [call("c1"), result("c1"), call("c2"), result("c2")],
            [assistant(None, called("c1")), tool("c1"), assistant(None, called("c2")), tool("c2")],
        ),
        (
            [call("c1"), result("c1"), thought("Hm"), text("Now"), call("c2"), result("c2", "")],
            [assistant(None, called("c1")), tool("c1"), assistant("Now", called("c2")), tool("c2", "")],
        ),
    ],
)
def test_spoken(parts: list[Part], messages: list[dict[str, Any]]) -> None:
    assert list(spoken(parts)) == messages


def test_conversation() -> None:
    history = [
        message(Role.USER, text("first")),
        message(Role.ASSISTANT),  # failed before its first word
        message(Role.USER, text("again")),
        message(Role.ASSISTANT, call("c1"), result("c1"), text("done")),
        message(Role.USER, text("thanks")),
    ]
    assert conversation("Be brief", history) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "first\n\nagain"},
        assistant(None, called("c1")),
        tool("c1"),
        assistant("done"),
        {"role": "user", "content": "thanks"},
    ]
    assert conversation("", history[:1]) == [{"role": "user", "content": "first"}]


@st.composite
def answers(draw: st.DrawFn) -> list[Part]:
    """What rounds of an agent leave, cut anywhere."""
    parts: list[Part] = []
    for turn in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            parts.append(draw(st.sampled_from([text("words"), thought("Hm")])))
        ids = [f"c{turn}.{number}" for number in range(draw(st.integers(0, 3)))]
        parts += [call(call_id) for call_id in ids]
        parts += [result(call_id) for call_id in draw(st.permutations(ids))]
    return with_stopped_results(parts[: draw(st.integers(0, len(parts)))])


@given(st.lists(answers(), max_size=4))
def test_a_strict_provider_takes_every_history(history: list[list[Part]]) -> None:
    messages = [each for parts in history for each in (message(Role.USER, text("Hi")), message(Role.ASSISTANT, *parts))]
    check_request({"messages": conversation(None, [*messages, message(Role.USER, text("Go on"))])})
