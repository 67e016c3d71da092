from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.errors import UpstreamError
from odysseus.upstream import Call, Finish, Piece, Text
from odysseus.upstream.chat_completions import AnswerDecoder
from odysseus.upstream.tool_calls import ToolCalls

DONE = b"data: [DONE]\n\n"


def fragment(index: Any = None, id_: Any = None, name: Any = None, arguments: Any = None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = (("index", index), ("id", id_), ("function", function))
    return {key: value for key, value in fields if value is not None}


def together(*fragments: Any) -> list[tuple[str, str, str]]:
    calls = ToolCalls()
    for each in fragments:
        calls.add(each if isinstance(each, list) else [each])
    return [(call.id, call.name, call.arguments) for call in calls.take()]


A, B = ("a", "add", '{"x":1}'), ("b", "get", "{}")


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        pytest.param([], [], id="none"),
        pytest.param([fragment(0, *A)], [A], id="whole"),
        pytest.param(
            [fragment(0, "a", "add", ""), fragment(0, arguments='{"x"'), fragment(0, arguments=":1}")], [A], id="bits"
        ),
        pytest.param(
            [
                [fragment(0, "a", "add"), fragment(1, "b", "get")],
                fragment(1, arguments="{"),
                [fragment(0, arguments='{"x"'), fragment(1, arguments="}")],
                fragment(0, arguments=":1}"),
            ],
            [A, B],
            id="interleaved",
        ),
        pytest.param([fragment(None, *A), fragment(None, *B)], [A, B], id="no index"),
        pytest.param([fragment(0, *A), fragment(0, *B)], [A, B], id="all numbered 0"),
        pytest.param(
            [fragment(None, None, "add", "{}"), fragment(None, None, "add", "{}")],
            [("", "add", "{}"), ("", "add", "{}")],
            id="neither index nor id",
        ),
        pytest.param(
            [fragment(0, "a", "add", '{"x"'), fragment(0, "a", "add", ":1}")], [A], id="id and name in every bit"
        ),
        pytest.param([fragment(0, "a", "add", {"x": 1})], [A], id="arguments as an object"),
        pytest.param([fragment(0, "a", "add"), fragment(None, None, None, '{"x":1}')], [A], id="index only at first"),
        pytest.param([fragment(2, "a", "add", '{"x":1}'), fragment(0, *B)], [A, B], id="in the order they began"),
        pytest.param([fragment(0, 7, None, 5), "junk", None, [3, None]], [("", "", "")], id="junk"),
    ],
)
def test_fragments(fragments: list[Any], calls: list[tuple[str, str, str]]) -> None:
    assert together(*fragments) == calls


@pytest.mark.parametrize(
    "fragments",
    [[fragment(number, f"c{number}", "add") for number in range(1001)], [fragment(0, "a", "add", "x" * 2**20 + "x")]],
    ids=["calls", "characters"],
)
def test_more_than_anybody_means(fragments: list[Any]) -> None:
    with pytest.raises(UpstreamError, match="upstream_protocol"):
        ToolCalls().add(fragments)


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def answer(*chunks: bytes) -> list[Piece]:
    decoder = AnswerDecoder()
    return [piece for chunk in chunks for piece in decoder.feed(chunk)]


CALL = {"tool_calls": [fragment(0, *A)]}


@pytest.mark.parametrize(
    ("chunks", "pieces"),
    [
        ([event({"content": "H"}), event(CALL), event({}, "tool_calls")], [Text("H"), Call(*A), Finish("tool_calls")]),
        ([event(CALL, "stop"), DONE], [Call(*A), Finish("stop")]),
        ([event(CALL), DONE], [Call(*A)]),  # no finish_reason at all
        ([event(CALL)], []),  # half a turn: nothing of it may be run
        ([event({"tool_calls": None}), event({}, "stop")], [Finish("stop")]),
        (
            [event({"tool_calls": [fragment(0, "a\0", "n\ud800", "\0")]}, "stop")],
            [Call("a\ufffd", "n\ufffd", "\ufffd"), Finish("stop")],
        ),
    ],
    ids=["usual", "stop", "no reason", "half", "null", "not storable"],
)  # fmt: skip
def test_calls_come_when_they_are_whole(chunks: list[bytes], pieces: list[Piece]) -> None:
    assert answer(*chunks) == pieces


def test_a_broken_stream_gives_no_call() -> None:
    decoder = AnswerDecoder()
    assert decoder.feed(event(CALL)) == []
    with pytest.raises(UpstreamError):
        decoder.end()


@settings(deadline=None)
@given(st.data())
def test_any_cut_of_the_arguments_and_any_interleaving(data: st.DataObject) -> None:
    arguments = data.draw(st.lists(st.text(max_size=20).map(lambda text: json.dumps({"x": text})), max_size=4))
    queues = []
    for index, document in enumerate(arguments):
        edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(document)), max_size=5))), len(document)]
        bits = [document[start:end] for start, end in pairwise(edges)]
        queues.append([fragment(index, f"c{index}", "add"), *(fragment(index, arguments=bit) for bit in bits)])
    order = data.draw(st.permutations([index for index, queue in enumerate(queues) for _ in queue]))
    expected = {f"c{index}": document for index, document in enumerate(arguments)}
    calls = together(*(queues[index].pop(0) for index in order))
    assert {id_: sent for id_, _, sent in calls} == expected
