"""MCP servers, as sources of tools.

A server comes and goes: one task keeps a connection to it, looks after it, and makes another when it is lost. What
goes wrong with it is told of in its `state` and `problem`; it is an error only for whoever is calling one of its tools.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Literal

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

from odysseus import __version__
from odysseus.server_settings import McpServerSettings
from odysseus.tasks import Tasks, look_at
from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.mcp_words import text_of, unique_name
from odysseus.tools.stdio import StdioTransport
from odysseus.tools.streamable_http import HttpTransport

__all__ = ["McpServer"]

_log = logging.getLogger(__name__)
logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it logs traces of what is one line here
logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs URLs, which may hold a key

_CLOSE_S = 6.0  # a server over stdio may take 5 s to be ended
_MAX_PROBLEM = 300
_SHORTEST_SECRET = 8  # a shorter value is a switch or a number, and may be part of any text
_Result = types.CallToolResult | types.InputRequiredResult
_result: TypeAdapter[_Result] = TypeAdapter(_Result)


class McpServer:
    """*limit_s* is for connecting and for a check, *check_s* between two checks; *pauses_s* are the first and the
    longest between two attempts to connect.
    """

    def __init__(
        self,
        settings: McpServerSettings,
        *,
        limit_s: float = 10.0,
        check_s: float = 15.0,
        pauses_s: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        self.name = settings.name
        self.transport: Literal["stdio", "http"] = "http" if settings.command is None else "stdio"
        self.state: Literal["starting", "ready", "failed"] = "starting"
        self.problem: str | None = None
        """Why it failed, in one line and without secrets; None unless it has failed."""
        self.tools: Sequence[Tool] = ()
        """Empty unless it is ready."""
        self.settled = asyncio.Event()
        """Set when the first attempt to connect has ended, well or not."""
        self._settings = settings
        self._limit_s = limit_s
        self._check_s = check_s
        self._pauses_s = pauses_s
        self._client: Client | None = None
        """Set while it is ready."""
        self._link: StdioTransport | HttpTransport
        """Of the last attempt to connect."""
        self._look = asyncio.Event()
        """Set by whatever gives a reason to check the server now."""
        self._in_flight = 0
        """Calls that somebody waits for."""
        self._handshake: Literal["auto", "legacy"] = "auto"
        self._ready_since: float | None = None
        """On the loop's clock; None if the last attempt to connect has failed."""
        self._missed: set[str] = set()
        """Names in the settings that the server doesn't have, and that was logged."""
        self._told: str | None = None
        """The problem that was logged last, until the server is ready again."""
        self._tasks = Tasks()
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect; goes on until `close`."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """End the connection and the server, if it was started here; takes 7 s at most."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await self._tasks.drain(_CLOSE_S)

    async def _keep(self) -> None:
        first_s, longest_s = self._pauses_s
        pause_s = 0.0
        while True:
            # A task of its own: the SDK's cancel scopes can't reach out of it, whatever happens inside.
            connection = self._tasks.spawn(self._be_connected())
            try:
                await asyncio.wait({connection})
            finally:
                connection.cancel()
            error = None if connection.cancelled() else connection.exception()
            self._fail(self._link.problem or self._reason(error))
            self.settled.set()
            if self._ready_since is None:
                self._handshake = "legacy" if self._handshake == "auto" else "auto"
            if self._ready_since is not None and asyncio.get_running_loop().time() - self._ready_since >= first_s:
                pause_s = 0.0
            else:
                pause_s = min(max(2 * pause_s, first_s), longest_s)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _be_connected(self) -> None:
        """Connect, and return or raise when the connection is over."""
        self._ready_since = None
        if self.transport == "stdio":
            self._link = StdioTransport(self._settings, on_end=self._look.set)
        else:
            self._link = HttpTransport(self._settings)
        client = Client(
            self._link,
            mode=self._handshake,
            cache=None,
            client_info=types.Implementation(name="odysseus", version=__version__),
            message_handler=self._hear,
        )
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._limit_s):
                await stack.enter_async_context(client)
                await self._list(client)
            self._client = client
            self._ready_since = asyncio.get_running_loop().time()
            self.state, self.problem, self._told = "ready", None, None
            self.settled.set()
            _log.info("MCP server %s is ready, tools: %d", self.name, len(self.tools))
            listener = self._tasks.spawn(self._listen(client))
            try:
                await self._look_after(client)
            finally:
                listener.cancel()
                self._client, self.tools = None, ()
                self.state, self.problem = "failed", "the connection was lost"  # to end it may take a while

    async def _look_after(self, client: Client) -> None:
        while True:
            try:
                async with asyncio.timeout(self._check_s):
                    await self._look.wait()
            except TimeoutError:
                if self._in_flight:
                    continue  # a server that does one thing at a time would seem to hang
            self._look.clear()
            if not await self._answers(client) and not self._in_flight:
                raise TimeoutError

    async def _answers(self, client: Client) -> bool:
        """Ask for the tools; return whether the answer came in time. Raises what shows that the connection is lost."""
        listing = self._tasks.spawn(self._list(client))  # of its own for the reason that `_call` has, too
        try:
            done, _ = await asyncio.wait({listing}, timeout=self._limit_s)
        finally:
            listing.add_done_callback(look_at)
            listing.cancel()
        if done:
            listing.result()
        return bool(done)

    async def _list(self, client: Client) -> None:
        page = await client.list_tools()
        listed = page.tools
        while page.next_cursor is not None:
            page = await client.list_tools(cursor=page.next_cursor)
            listed += page.tools
        self.tools = self._offered(listed)

    def _offered(self, listed: Iterable[types.Tool]) -> Sequence[Tool]:
        own = {tool.name: tool for tool in listed}
        approval = self._settings.needs_approval
        named = {*(self._settings.tools or ()), *(approval if isinstance(approval, tuple) else ())}
        if missing := named - own.keys() - self._missed:
            _log.warning("MCP server %s doesn't have tools of the settings: %s", self.name, ", ".join(sorted(missing)))
            self._missed |= missing
        tools: dict[str, Tool] = {}
        for tool in own.values():
            if self._settings.tools is not None and tool.name not in self._settings.tools:
                continue
            name = unique_name(self.name, tool.name, tools)
            tools[name] = Tool(
                name=name,
                description=tool.description or tool.title or "",
                parameters={"properties": {}, **tool.input_schema, "type": "object"},
                source=self.name,
                needs_approval=tool.name in approval if isinstance(approval, tuple) else approval,
                call=partial(self._call, tool.name),
            )
        return tuple(tools.values())

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._look.set()

    async def _listen(self, client: Client) -> None:
        """Hear of changed tools where that has to be asked for. A lost stream is a reason to look, too."""
        capability = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (capability and capability.list_changed):
            return
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._look.set()  # at what has changed since they were listed
                    async for _ in changes:
                        pass  # `_hear` is told of each, too
            except Exception as error:
                _log.debug("MCP server %s: %r", self.name, error)
            self._look.set()
            await asyncio.sleep(self._check_s)

    async def _call(self, tool: str, arguments: Mapping[str, Any], caller: Caller) -> str:
        if self._client is None:
            raise ToolError(f"the MCP server {self.name} isn't there: {self.problem or 'it is being started'}")
        # In a task of its own: a cancel tells the server, and who cancels need not wait until a server takes that.
        work = self._tasks.spawn(_ask(self._client, tool, arguments))
        self._in_flight += 1
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            work.cancel()
            work.add_done_callback(look_at)
            self._look.set()  # perhaps it was cancelled because the server hangs
            raise
        finally:
            self._in_flight -= 1
        if work.cancelled():
            raise self._gone()
        try:
            return _text(work.result())
        except MCPError as error:
            raise self._gone(error) if error.code == types.CONNECTION_CLOSED else ToolError(error.message) from error
        except ToolError:
            raise
        except Exception as error:
            raise ToolError(f"the MCP server {self.name} gave no proper answer: {error}") from error

    def _gone(self, error: MCPError | None = None) -> ToolError:
        self._look.set()
        why = self._link.problem or (error and error.message) or "the connection was lost"
        return ToolError(f"the MCP server {self.name} went away: {why}")

    def _fail(self, problem: str) -> None:
        for secret in _secrets(self._settings):
            problem = problem.replace(secret, "***")
        problem = " ".join(problem.split())[:_MAX_PROBLEM]
        if problem != self._told:
            _log.warning("MCP server %s failed: %s", self.name, problem)
        self.state, self.problem, self._told = "failed", problem, problem

    def _reason(self, error: BaseException | None) -> str:
        while isinstance(error, BaseExceptionGroup):  # the SDK's, around what happened in one of its tasks
            error = error.exceptions[0]
        match error:
            case None:
                return "the connection was lost"
            case TimeoutError():
                return f"no answer within {self._limit_s:g} s"
            case MCPError():
                return error.message
            case httpx2.TransportError():
                return f"can't be reached: {error or type(error).__name__}"
        return f"{type(error).__name__}: {error}"


async def _ask(client: Client, tool: str, arguments: Mapping[str, Any]) -> _Result:
    """Call *tool*. Not `Client.call_tool`, which checks the result against a schema: 2 s of blocked loop for 16 MB."""
    params = types.CallToolRequestParams(name=tool, arguments=dict(arguments))
    return await client.session.send_request(types.CallToolRequest(params=params), _result)


def _text(result: _Result) -> str:
    if isinstance(result, types.InputRequiredResult):
        raise ToolError("the tool asks back, which can't be answered here")
    text = text_of(result)
    if result.is_error:
        raise ToolError(text or "the tool failed and doesn't say why")
    return text


def _secrets(settings: McpServerSettings) -> Iterator[str]:
    """Yield what must not be shown: whole values, and the words in them, as in `Bearer key`."""
    values = [value.get_secret_value() for value in (*settings.env.values(), *settings.headers.values())]
    if settings.url is not None:
        values += [settings.url.query or "", settings.url.username or "", settings.url.password or ""]
        values += (value for _, value in settings.url.query_params())
    for value in values:
        yield from (word for word in (value, *value.split()) if len(word) >= _SHORTEST_SECRET)
