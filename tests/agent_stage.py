"""A stage for agents: a model that plays its turns and takes nothing that a strict provider wouldn't, and tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from odysseus.agent import Agent, AgentLimits, AgentPiece
from odysseus.approvals import Approvals
from odysseus.events import ToolResult
from odysseus.tasks import Tasks
from odysseus.tools import Caller, Tool
from odysseus.tools.toolbox import Toolbox
from odysseus.upstream import Ask, Call, ChatMessage, Finish, Piece, Take, Text
from odysseus.upstream.chat_completions import request_body
from tests.message_rules import check_request
from tests.virtual_time import run_virtual

Work = Callable[[Mapping[str, Any]], Awaitable[str]]


class ScriptedModel:
    """Answers each ask with the next of *turns*; a turn is the pieces of one read each."""

    def __init__(self, *turns: Sequence[Piece]) -> None:
        self.turns = list(turns)
        self.asks: list[dict[str, Any]] = []
        self.open = 0

    async def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[Piece], None]:
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
        assert caller == Caller("ses", "ann")
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
            model, Toolbox(tools), replace(AgentLimits(), **limits), Caller("ses", "ann"), approvals, self.tasks
        )

    async def play(self, *history: ChatMessage) -> list[AgentPiece]:
        ask = Ask(model="m", messages=[{"role": "user", "content": "Hi"}, *history])
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
