"""Agent mode: a model that calls tools, asked again with their results until it answers without a call.

An `Agent` is asked like a model, so that a generation needn't know which of the two it has. Whatever interrupts it,
the tools at work are cancelled before its generator is closed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from odysseus.answer import Answer
from odysseus.approvals import Approvals, Decision
from odysseus.conversation import spoken
from odysseus.events import ApprovalRequest, ToolCall, ToolResult, UsageCount
from odysseus.messages import new_id
from odysseus.storable import storable, storable_object
from odysseus.tasks import Tasks, look_at
from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.toolbox import Toolbox
from odysseus.upstream import (
    Ask,
    Call,
    ChatMessage,
    Finish,
    FunctionCall,
    Offer,
    Piece,
    Reasoning,
    Take,
    Text,
    Tokens,
    Upstream,
)

__all__ = ["TOOL_ROUNDS", "Agent", "AgentLimits", "AgentPiece", "ToolPiece"]

_log = logging.getLogger(__name__)

ToolPiece = ToolCall | ToolResult | ApprovalRequest
AgentPiece = Piece | ToolPiece

TOOL_ROUNDS = "tool_rounds"
"""The finish reason of a model that was asked often enough and still called tools."""

_CANCEL_S = 1.0  # what a cancelled tool gets to end in; one that takes longer is left behind
_CUT = frozenset({"length", "content_filter"})  # the model was cut off: its last call may be half a call
_ID = re.compile(r"[!-~]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """The defaults are those of the settings with the same names."""

    max_tool_rounds: int = 25
    max_round_calls: int = 32
    max_parallel_tools: int = 8
    max_tool_output_chars: int = 32_000
    tool_timeout_s: float = 60
    approval_timeout_s: float = 300


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A call as the model wants it; *problem* is why it can't be."""

    event: ToolCall
    tool: Tool | None
    problem: str | None = None


class Agent:
    """*approvals* is None where nobody could be asked: then a tool that needs it is denied."""

    def __init__(
        self,
        upstream: Upstream,
        toolbox: Toolbox,
        limits: AgentLimits,
        caller: Caller,
        approvals: Approvals | None,
        tasks: Tasks,
    ) -> None:
        self._upstream = upstream
        self._toolbox = toolbox
        self._limits = limits
        self._caller = caller
        self._approvals = approvals
        self._tasks = tasks
        self._call_ids: set[str] = set()

    async def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[AgentPiece], None]:
        """Yield what each read of the model's answers and each tool brings. Raises `UpstreamError`.

        The last piece is a `Finish`: the model's own, or `tool_rounds` when it was asked often enough.
        """
        tools = {tool.name: tool for tool in await self._toolbox.tools()}
        offers = [Offer(tool.name, tool.description, tool.parameters) for tool in tools.values()]
        messages = list(ask.messages)
        # Some servers count calls anew in every answer; a decision that comes late must not meet another run's call.
        self._call_ids.update(call["id"] for message in messages for call in _calls_in(message))
        used: UsageCount | None = None
        for _ in range(self._limits.max_tool_rounds):
            turn = _Turn(used)
            offered = None if take is None else partial(turn.offer, take)
            async with aclosing(self._upstream.ask(replace(ask, messages=messages, tools=offers), offered)) as reads:
                async for pieces in reads:
                    if told := [taken for piece in pieces if (taken := turn.take(piece)) is not None]:
                        yield told
            if not turn.calls or turn.finish in _CUT:
                if turn.finish is not None:
                    yield [Finish(turn.finish)]
                return
            used = turn.used
            wanted = [self._wanted(number, call, tools) for number, call in enumerate(turn.calls)]
            yield [turn.keep(one.event) for one in wanted]
            async with aclosing(self._results(wanted)) as results:
                async for news in results:
                    yield [turn.keep(one) for one in news]
            messages += spoken(turn.answer.parts())
        yield [Finish(TOOL_ROUNDS)]

    def _wanted(self, number: int, call: Call, tools: Mapping[str, Tool]) -> _Wanted:
        """Check the call before it is told to anybody; what is wrong goes back to the model as its result."""
        id_ = call.id if _ID.fullmatch(call.id) and call.id not in self._call_ids else new_id("call")
        self._call_ids.add(id_)
        name = re.sub(r"[^A-Za-z0-9_-]", "_", call.name)[:64] or "unnamed"  # what a strict provider takes back
        try:
            event = ToolCall(id_, name, storable_object(call.arguments) if call.arguments.strip() else {})
        except ValueError as error:
            problem = f"the arguments aren't a JSON object ({error}); you sent: {call.arguments}"
            return _Wanted(ToolCall(id_, name, {}), None, problem)
        if number >= self._limits.max_round_calls:
            return _Wanted(event, None, f"not run: at most {self._limits.max_round_calls} calls at once are")
        if (tool := tools.get(call.name)) is None:
            return _Wanted(event, None, f"there is no tool {name}; there are: {', '.join(tools) or 'none'}")
        return _Wanted(event, tool)

    async def _results(self, wanted: Sequence[_Wanted]) -> AsyncGenerator[Sequence[ToolPiece], None]:
        """Run the calls side by side; yield their results as they come, and the approvals they ask for."""
        news: asyncio.Queue[ToolPiece] = asyncio.Queue()
        slots = asyncio.Semaphore(self._limits.max_parallel_tools)
        tasks = [self._tasks.spawn(self._settle(one, slots, news.put_nowait)) for one in wanted]
        left = len(wanted)
        try:
            while left:
                come = [await news.get()]
                while not news.empty():
                    come.append(news.get_nowait())
                left -= sum(isinstance(piece, ToolResult) for piece in come)
                yield come
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=2 * _CANCEL_S)

    async def _settle(self, wanted: _Wanted, slots: asyncio.Semaphore, tell: Callable[[ToolPiece], None]) -> None:
        """Bring the call to its result, one way or the other, and tell it."""
        event, tool = wanted.event, wanted.tool
        problem, duration_ms = wanted.problem, None
        output = ""
        if tool is not None and tool.needs_approval:
            problem = await self._refusal(event, tell)
        if tool is not None and problem is None:
            async with slots:
                begun = asyncio.get_running_loop().time()
                try:
                    output = await self._output(tool, event)
                except ToolError as error:
                    problem = str(error)
                duration_ms = round((asyncio.get_running_loop().time() - begun) * 1000, 1)
        text = self._cut(storable(output if problem is None else problem))
        tell(ToolResult(event.call_id, event.name, text, problem is not None, duration_ms))

    async def _refusal(self, event: ToolCall, tell: Callable[[ToolPiece], None]) -> str | None:
        """Ask for approval; return why the call is denied, or None if it isn't."""
        if self._approvals is None:
            return "denied: this tool needs somebody's approval, which nobody can give in a compare"
        request = ApprovalRequest(event.call_id, event.name, event.arguments)
        tell(request)
        try:
            verdict = await self._approvals.verdict(request, self._limits.approval_timeout_s)
        except TimeoutError:
            return f"denied: nobody approved it within {self._limits.approval_timeout_s:g} s"
        if verdict.decision is Decision.ALLOW:
            return None
        return f"denied: {verdict.reason}" if verdict.reason else "denied by the user"

    async def _output(self, tool: Tool, event: ToolCall) -> str:
        """Call *tool* within its limit. Raises `ToolError`.

        The tool has a task of its own: whatever it does with a cancel, it can't hold up the run for long.
        """
        task = self._tasks.spawn(_call(tool, event, self._caller))
        task.add_done_callback(look_at)
        try:
            await asyncio.wait({task}, timeout=self._limits.tool_timeout_s)
            if not task.done():
                raise ToolError(f"stopped: it took longer than {self._limits.tool_timeout_s:g} s")
            if task.cancelled():
                raise ToolError("the tool gave up")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_S)

    def _cut(self, text: str) -> str:
        most = self._limits.max_tool_output_chars
        return text if len(text) <= most else f"{text[:most]}\n[cut: the first {most} of {len(text)} characters]"


class _Turn:
    """One turn of the model, with what its calls gave."""

    def __init__(self, before: UsageCount | None) -> None:
        self.answer = Answer()
        self.calls: list[Call] = []
        self.finish: str | None = None
        self.used = before
        """Tokens of this turn and those before it: what has to be paid."""
        self._before = before

    def take(self, piece: Piece) -> Piece | None:
        """Keep what must come back to the model; return what is to be streamed now."""
        match piece:
            case Text(text):
                self.answer.add("text", text)
            case Tokens(usage):
                self.used = _sum(self._before, usage)
                return Tokens(self.used)
            case Call():
                self.calls.append(piece)
                return None
            case Finish(reason):
                self.finish = reason
                return None
        return piece

    def offer(self, take: Take, pieces: Sequence[Piece]) -> bool:
        """Offer what is text or reasoning to *take*, and keep it if that takes it."""
        if not all(isinstance(piece, Text | Reasoning) for piece in pieces) or not take(pieces):
            return False
        for piece in pieces:
            self.take(piece)
        return True

    def keep(self, piece: ToolPiece) -> ToolPiece:
        if not isinstance(piece, ApprovalRequest):
            self.answer.add_tool(piece)
        return piece


def _sum(before: UsageCount | None, usage: UsageCount) -> UsageCount:
    if before is None:
        return usage
    return {
        "prompt_tokens": before["prompt_tokens"] + usage["prompt_tokens"],
        "completion_tokens": before["completion_tokens"] + usage["completion_tokens"],
        "total_tokens": before["total_tokens"] + usage["total_tokens"],
    }


def _calls_in(message: ChatMessage) -> Sequence[FunctionCall]:
    return message.get("tool_calls", ()) if message["role"] == "assistant" else ()


async def _call(tool: Tool, event: ToolCall, caller: Caller) -> str:
    try:
        return await tool.call(event.arguments, caller)
    except ToolError:
        raise
    except Exception as error:
        _log.exception("tool %s of %s failed", tool.name, tool.source)
        raise ToolError(f"the tool failed ({type(error).__name__})") from error
