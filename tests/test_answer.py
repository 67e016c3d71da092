from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.answer import Answer, stopped_results, with_stopped_results
from odysseus.events import Part, TextKind, ToolCall, ToolResult

Pieces = list[tuple[TextKind, str]]


def answer_of(pieces: Pieces) -> Answer:
    answer = Answer()
    for kind, text in pieces:
        answer.add(kind, text)
    return answer


@pytest.mark.parametrize(
    ("pieces", "parts", "content", "reasoning"),
    [
        ([], [], "", ""),
        ([("text", "Hel"), ("text", "lo")], [{"type": "text", "text": "Hello"}], "Hello", ""),
        ([("reasoning", "Hm")], [{"type": "reasoning", "text": "Hm"}], "", "Hm"),
        (
            [("reasoning", "a"), ("reasoning", "b"), ("text", "c"), ("reasoning", "d"), ("text", "e")],
            [
                {"type": "reasoning", "text": "ab"},
                {"type": "text", "text": "c"},
                {"type": "reasoning", "text": "d"},
                {"type": "text", "text": "e"},
            ],
            "ce",
            "abd",
        ),
        ([("text", "\u00e4\U0001f6a2")], [{"type": "text", "text": "\u00e4\U0001f6a2"}], "\u00e4\U0001f6a2", ""),
    ],
)
def test_answer(pieces: Pieces, parts: list[Part], content: str, reasoning: str) -> None:
    answer = answer_of(pieces)
    assert (answer.parts(), answer.content, answer.reasoning) == (parts, content, reasoning)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["text", "reasoning"]), st.text())))
def test_nothing_is_lost_or_moved(pieces: Pieces) -> None:
    answer = answer_of(pieces)
    runs = [(kind, "".join(text for _, text in run)) for kind, run in groupby(pieces, key=lambda piece: piece[0])]
    assert [(part["type"], part["text"]) for part in answer.parts()] == runs
    assert answer.content == "".join(text for kind, text in pieces if kind == "text")
    assert answer.reasoning == "".join(text for kind, text in pieces if kind == "reasoning")


def test_parts_handed_out_do_not_grow() -> None:
    """A checkpoint under way writes what it was given, while the answer goes on."""
    answer = answer_of([("text", "a")])
    parts = answer.parts()
    answer.add("text", "b")
    assert parts == [{"type": "text", "text": "a"}]
    parts[0]["text"] = "changed"
    assert answer.content == "ab"


def test_tools_stand_between_texts_in_their_order() -> None:
    answer = answer_of([("text", "Let me see.")])
    answer.add_tool(ToolCall("c1", "add", {"a": 1}))
    answer.add_tool(ToolResult("c1", "add", "2", False, 1.5))
    answer.add("text", "It is")
    answer.add("text", " 2.")
    assert answer.parts() == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_call", "call_id": "c1", "name": "add", "arguments": {"a": 1}},
        {
            "type": "tool_result",
            "call_id": "c1",
            "name": "add",
            "output": "2",
            "is_error": False,
            "duration_ms": 1.5,
        },
        {"type": "text", "text": "It is 2."},
    ]
    assert (answer.content, stopped_results(answer.parts())) == ("Let me see.It is 2.", [])


def test_calls_without_results_get_one() -> None:
    answer = Answer()
    for call_id in ("c1", "c2", "c3"):
        answer.add_tool(ToolCall(call_id, "add", {}))
    answer.add_tool(ToolResult("c2", "add", "2", False, 1.5))
    parts = answer.parts()
    whole = with_stopped_results(parts)
    assert whole[:4] == parts
    assert whole[4:] == [
        {
            "type": "tool_result",
            "call_id": call_id,
            "name": "add",
            "output": "stopped",
            "is_error": True,
            "duration_ms": None,
        }
        for call_id in ("c1", "c3")
    ]
    assert stopped_results(whole) == []
