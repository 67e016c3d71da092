from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.answer import Answer
from odysseus.events import Part, PartKind

Pieces = list[tuple[PartKind, str]]


def answer_of(pieces: Pieces) -> Answer:
    answer = Answer()
    for kind, text in pieces:
        answer.add(kind, text)
    return answer


@pytest.mark.parametrize(
    ("pieces", "parts", "content", "reasoning", "size"),
    [
        ([], [], "", "", 0),
        ([("text", "Hel"), ("text", "lo")], [{"type": "text", "text": "Hello"}], "Hello", "", 5),
        ([("reasoning", "Hm")], [{"type": "reasoning", "text": "Hm"}], "", "Hm", 2),
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
            5,
        ),
        ([("text", "\u00e4\U0001f6a2")], [{"type": "text", "text": "\u00e4\U0001f6a2"}], "\u00e4\U0001f6a2", "", 2),
    ],
)
def test_answer(pieces: Pieces, parts: list[Part], content: str, reasoning: str, size: int) -> None:
    answer = answer_of(pieces)
    assert (answer.parts(), answer.content, answer.reasoning, answer.size) == (parts, content, reasoning, size)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["text", "reasoning"]), st.text())))
def test_nothing_is_lost_or_moved(pieces: Pieces) -> None:
    answer = answer_of(pieces)
    runs = [(kind, "".join(text for _, text in run)) for kind, run in groupby(pieces, key=lambda piece: piece[0])]
    assert [(part["type"], part["text"]) for part in answer.parts()] == runs
    assert answer.content == "".join(text for kind, text in pieces if kind == "text")
    assert answer.reasoning == "".join(text for kind, text in pieces if kind == "reasoning")
    assert answer.size == sum(len(text) for _, text in pieces)


def test_parts_handed_out_do_not_grow() -> None:
    """A checkpoint under way writes what it was given, while the answer goes on."""
    answer = answer_of([("text", "a")])
    parts = answer.parts()
    answer.add("text", "b")
    assert parts == [{"type": "text", "text": "a"}]
    parts[0]["text"] = "changed"
    assert answer.content == "ab"
