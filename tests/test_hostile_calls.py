"""Calls as no model should make them, and tools that do as they like: each has one clear outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from odysseus.tools import ToolError
from odysseus.upstream import Call, Finish, Text
from tests.agent_stage import ECHO, SAYS, ScriptedModel, Stage, echo, never, played, tool, wants
from tests.virtual_time import run_virtual


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
