"""A server on the SDK, with a tool for each thing a server can do.

Run with `stdio`, or `http`, which prints its port; and `legacy` if it shall know nothing of the protocol of 2026.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Elicit, Image, Resolve
from mcp_types import METHOD_NOT_FOUND, EmbeddedResource, TextContent, TextResourceContents
from pydantic import BaseModel

server = MCPServer("many tools", log_level="CRITICAL")


class Answer(BaseModel):
    answer: str


@server.tool(structured_output=False)
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool(structured_output=False)
def several() -> list[TextContent | Image | EmbeddedResource]:
    return [
        TextContent(text="first"),
        Image(data=b"x" * 10, format="png"),
        EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="in a file")),
        TextContent(text="last"),
    ]


@server.tool(structured_output=False)
def fail() -> str:
    raise ValueError("it can't be done")


@server.tool(structured_output=False)
def environment(name: str) -> str:
    return os.environ.get(name, "unset")


@server.tool(structured_output=False)
def header(name: str, context: Context) -> str:
    return (context.headers or {}).get(name, "unset")


@server.tool(structured_output=False)
def process_id() -> str:
    return str(os.getpid())


def _touch(path: str) -> None:
    Path(path).touch()


@server.tool(structured_output=False)
async def wait(begun: str, cancelled: str) -> str:
    """Touch the file *begun*, wait for ever, and touch *cancelled* when cancelled."""
    _touch(begun)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        _touch(cancelled)
        raise
    return "never"


@server.tool(structured_output=False)
async def hold_up(seconds: float) -> str:
    """Take this long, and answer nothing else meanwhile."""
    time.sleep(seconds)  # noqa: ASYNC251  # that is the point
    return "done"


@server.tool(structured_output=False)
def megabytes(number: int) -> str:
    return "x" * (number * 1024 * 1024)


@server.tool(structured_output=False)
def die() -> str:
    os._exit(7)


def _question() -> Elicit[Answer]:
    return Elicit("What is it?", Answer)


@server.tool(structured_output=False)
async def ask(answer: Annotated[Answer, Resolve(_question)]) -> str:
    return answer.answer


@server.tool()
def structured() -> list[int]:
    return [1, 2]


@server.tool(structured_output=False)
async def learn(name: str, context: Context) -> str:
    """Have one tool more, and tell so."""
    server.add_tool(echo, name=name, structured_output=False)
    if "legacy" in sys.argv:
        await context.session.send_tool_list_changed()
    else:
        await context.notify_tools_changed()
    return "learned"


async def _legacy(context: Any, go_on: Any) -> Any:
    if context.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "no such method")
    return await go_on(context)


def _serve_http() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    app = server.streamable_http_app()
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])


if __name__ == "__main__":
    if "legacy" in sys.argv:
        server.middleware.append(_legacy)
    if "http" in sys.argv:
        _serve_http()
    else:
        server.run()
