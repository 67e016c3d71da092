from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from odysseus.server_settings import McpServerSettings
from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.mcp import McpServer
from tests.waiting import at_once, soon, until

MANY_TOOLS = str(Path(__file__).parent / "mcp_servers" / "many_tools.py")
BAD = str(Path(__file__).parent / "mcp_servers" / "bad.py")
URLS: dict[str, str] = {}
PAUSES_S = (0.05, 0.2)
TRANSPORTS = pytest.mark.parametrize("kind", ["stdio", "http"])
KINDS = pytest.mark.parametrize("kind", ["stdio", "http", "stdio legacy", "http legacy"])


@contextmanager
def listening(*flags: str) -> Iterator[str]:
    """Run the good server over HTTP; yield its URL."""
    with subprocess.Popen([sys.executable, MANY_TOOLS, "http", *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.kill()


@pytest.fixture(scope="module", autouse=True)
def urls() -> Iterator[None]:
    """Run the servers over HTTP that tests share, each with connections of its own."""
    with listening() as modern, listening("legacy") as legacy:
        URLS.update({"http": modern, "http legacy": legacy})
        yield


@asynccontextmanager
async def running(*, check_s: float = 600, limit_s: float = 30, **settings: Any) -> AsyncIterator[McpServer]:
    """Have a server of *settings*, whose first attempt to connect is over."""
    given = McpServerSettings.model_validate({"name": "srv", **settings})
    server = McpServer(given, check_s=check_s, limit_s=limit_s, pauses_s=PAUSES_S)
    server.start()
    try:
        await soon(server.settled.wait())
        yield server
    finally:
        await soon(server.close())


@asynccontextmanager
async def good(kind: str, *, check_s: float = 600, limit_s: float = 30, **settings: Any) -> AsyncIterator[McpServer]:
    """Have the good server, connected as *kind* says."""
    if "stdio" in kind:
        settings |= {"command": sys.executable, "args": (MANY_TOOLS, *kind.split())}
    else:
        settings["url"] = URLS[kind]
    async with running(check_s=check_s, limit_s=limit_s, **settings) as server:
        await until(lambda: server.state == "ready")
        yield server


def bad(*args: str, **settings: Any) -> Any:
    return running(command=sys.executable, args=(BAD, *args), **settings)


def tool(server: McpServer, name: str) -> Tool:
    return {tool.name: tool for tool in server.tools}[f"srv__{name}"]


async def call(server: McpServer, called: str, /, **arguments: object) -> str:
    return await soon(tool(server, called).call(arguments, Caller("session", "ann")))


@asynccontextmanager
async def longest_gap(limit_s: float) -> AsyncIterator[None]:
    """Fail if the loop is blocked for longer than *limit_s* meanwhile."""
    gaps = [0.0]

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticker = asyncio.create_task(tick())
    yield
    ticker.cancel()
    assert max(gaps) < limit_s


# What its tools are


@TRANSPORTS
async def test_tools_are_listed_and_called(kind: str) -> None:
    async with good(kind) as server:
        assert (server.state, server.problem, server.transport) == ("ready", None, kind)
        echo = tool(server, "echo")
        assert (echo.name, echo.source, echo.description, echo.needs_approval) == (
            "srv__echo",
            "srv",
            "Say it again.",
            False,
        )
        assert echo.parameters["type"] == "object"
        assert echo.parameters["required"] == ["text"]
        assert await call(server, "echo", text="hello") == "hello"
        assert await call(server, "several") == "first\n[image, image/png, 10 bytes]\nin a file\nlast"
        with pytest.raises(ToolError, match="fail"):
            await call(server, "fail")
        with pytest.raises(ToolError, match="text"):
            await call(server, "echo")
    assert server.tools == ()
    with pytest.raises(ToolError, match="the MCP server srv isn't there"):
        await echo.call({"text": "hello"}, Caller("session", "ann"))


async def test_settings_choose_tools_and_approvals(caplog: pytest.LogCaptureFixture) -> None:
    chosen = ("echo", "learn", "absent")
    async with good("stdio", tools=chosen, needs_approval=("echo", "missing")) as server:
        assert {tool.name: tool.needs_approval for tool in server.tools} == {"srv__echo": True, "srv__learn": False}
        await call(server, "learn", name="absent")
        await until(lambda: len(server.tools) == 3)
    async with good("http", tools=("echo",), needs_approval=True) as server:
        assert [tool.needs_approval for tool in server.tools] == [True]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["MCP server srv doesn't have tools of the settings: absent, missing"]


async def test_environment_is_the_settings_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODYSSEUS_UPSTREAM_API_KEY", "secret")
    async with good("stdio", env={"ANSWER": "42"}) as server:
        assert await call(server, "environment", name="ANSWER") == "42"
        assert await call(server, "environment", name="ODYSSEUS_UPSTREAM_API_KEY") == "unset"
        assert await call(server, "environment", name="PATH") == os.environ["PATH"]


async def test_headers_are_sent() -> None:
    async with good("http", headers={"Authorization": "Bearer open-sesame"}) as server:
        assert await call(server, "header", name="authorization") == "Bearer open-sesame"


@KINDS
async def test_changed_tools_are_noticed_at_once(kind: str) -> None:
    async with good(kind) as server:
        for name in ("parrot", "budgie"):
            assert await call(server, "learn", name=name) == "learned"
            await until(lambda name=name: any(tool.name == f"srv__{name}" for tool in server.tools))
            assert await call(server, name, text="hello") == "hello"


@pytest.mark.parametrize("kind", ["http", "http legacy"])
async def test_a_tool_that_asks_back_is_declined(kind: str) -> None:
    async with good(kind) as server:
        with pytest.raises(ToolError, match=r"asks back|not supported|capabilit|Error executing"):
            await call(server, "ask")
        assert await call(server, "echo", text="hello") == "hello"


# Cancelling


@KINDS
async def test_cancelling_a_call_cancels_it_at_the_server(kind: str, tmp_path: Path) -> None:
    begun, cancelled = tmp_path / "begun", tmp_path / "cancelled"
    async with good(kind) as server:
        waiting = asyncio.create_task(call(server, "wait", begun=str(begun), cancelled=str(cancelled)))
        await until(begun.exists)
        waiting.cancel()
        with at_once(), pytest.raises(asyncio.CancelledError):
            await waiting
        await until(cancelled.exists)
        assert await call(server, "echo", text="hello") == "hello"
        assert server.state == "ready"


@pytest.mark.parametrize("kind", ["stdio", "http", "http legacy"])
async def test_a_server_that_hangs_holds_nobody_up(kind: str) -> None:
    async with good(kind, limit_s=2) as server:
        process_id = int(await call(server, "process_id"))
        os.kill(process_id, signal.SIGSTOP)
        try:
            full = asyncio.create_task(call(server, "echo", text="x" * 1_000_000))  # more than a pipe holds
            await asyncio.sleep(0.1)
            full.cancel()
            with at_once(), pytest.raises(asyncio.CancelledError):
                await full
            await until(lambda: server.state == "failed")
            assert server.tools == ()
        finally:
            if "http" in kind:
                os.kill(process_id, signal.SIGCONT)
        await until(lambda: server.state == "ready")  # over stdio it is another one
        assert await call(server, "echo", text="hello") == "hello"


async def test_a_server_that_is_busy_is_not_taken_for_one_that_hangs() -> None:
    async with good("stdio", check_s=0.1, limit_s=2) as server:
        busy = asyncio.create_task(call(server, "hold_up", seconds=3))
        other = asyncio.create_task(call(server, "echo", text="hello"))
        await asyncio.sleep(0.1)
        other.cancel()  # which is a reason to look at the server
        assert await busy == "done"
        assert server.state == "ready"


async def test_closing_does_not_wait_for_a_server_that_hangs() -> None:
    async with good("http legacy") as server:  # it has a session, and is told of its end
        process_id = int(await call(server, "process_id"))
        os.kill(process_id, signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                await server.close()
        finally:
            os.kill(process_id, signal.SIGCONT)


# Coming and going


async def test_a_server_that_dies_in_a_call_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async with good("stdio") as server:
        first = await call(server, "process_id")
        with pytest.raises(ToolError, match="the MCP server srv went away"):
            await call(server, "die")
        await until(lambda: server.state == "failed")
        await until(lambda: server.state == "ready")
        assert await call(server, "process_id") != first
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"MCP server srv failed: the command {sys.executable} ended, status 7"]


async def test_a_server_that_dies_idle_is_noticed_at_once() -> None:
    async with good("stdio legacy") as server:
        first = await call(server, "process_id")
        os.kill(int(first), signal.SIGKILL)
        await until(lambda: server.state == "failed")
        await until(lambda: server.state == "ready")
        assert await call(server, "process_id") != first


@pytest.mark.parametrize("flags", [(), ("legacy",)])
async def test_a_dead_http_server_fails_a_call_and_the_next_check(flags: tuple[str, ...]) -> None:
    with listening(*flags) as url:
        async with running(url=url, check_s=0.2) as server:
            with pytest.raises(ToolError, match="the MCP server srv went away"):
                await call(server, "die")
            await until(lambda: "can't be reached" in (server.problem or ""))
            assert (server.state, server.tools) == ("failed", ())


async def test_other_calls_of_a_server_survive_one_that_is_cancelled(tmp_path: Path) -> None:
    async with good("stdio", limit_s=1) as server:
        begun = [tmp_path / "first", tmp_path / "second"]
        calls = [
            asyncio.create_task(call(server, "wait", begun=str(path), cancelled=str(tmp_path / "end")))
            for path in begun
        ]
        await until(lambda: all(path.exists() for path in begun))
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        assert await call(server, "echo", text="hello") == "hello"
        assert not calls[1].done()
        calls[1].cancel()
        await asyncio.wait(calls)


async def test_a_server_of_the_old_handshake_is_met_at_the_second_attempt() -> None:
    async with bad("old") as server:
        assert server.state == "failed"
        await until(lambda: server.state == "ready")
        assert [tool.name for tool in server.tools] == ["srv__old"]


async def test_a_silent_server_is_given_up_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with bad("silent", limit_s=0.3) as server:
        assert (server.state, server.problem) == ("failed", "no answer within 0.3 s")
        with at_once():
            await server.close()


async def test_a_server_that_cant_start_is_tried_again_and_again(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"
    async with running(command="sh", args=("-c", f"echo >> {attempts}; exit 3")) as server:
        assert (server.state, server.problem) == ("failed", "the command sh ended, status 3")
        await until(lambda: attempts.read_text().count("\n") >= 4)
        assert server.state == "failed"


async def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(command="false"):
        pauses = []

        async def note(pause_s: float, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
            if pause_s > 0.005:  # those of `until` are shorter
                pauses.append(pause_s)
            await sleep(0)

        monkeypatch.setattr("random.uniform", lambda low, high: high)
        monkeypatch.setattr("asyncio.sleep", note)
        await until(lambda: len(pauses) >= 3)
        assert pauses[:3] == [0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"command": "no-such-command"}, "there is no command no-such-command"),
        ({"command": "/etc/passwd"}, "the command /etc/passwd can't be run"),
        ({"command": "true", "cwd": "/no/such/folder"}, "/no/such/folder"),
        ({"url": "http://127.0.0.1:1/mcp"}, "can't be reached"),
        ({"url": "http://no-such-host.invalid/mcp"}, "can't be reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_problem_is_told_in_one_line(settings: dict[str, Any], problem: str) -> None:
    async with running(**settings) as server:
        assert server.state == "failed"
        assert server.problem is not None
        assert problem in server.problem
        assert "\n" not in server.problem


async def test_a_problem_tells_no_secrets(aiohttp_server: AiohttpServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=401, reason=f"not {request.headers['X-Key']} {request.query_string}")

    app = web.Application()
    app.router.add_post("/mcp", refuse)
    url = (await aiohttp_server(app)).make_url("/mcp?key=hush-hush-hush")
    async with running(url=str(url), headers={"X-Key": "open-sesame"}) as server:
        assert server.problem == "answered 401 not *** ***"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("odysseus", "mcp", "httpx"))]
    assert ours
    assert not [line for line in ours if "open-sesame" in line or "hush-hush" in line]


# Too much of it


async def test_garbage_is_skipped_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async with bad("chatty") as server:
        assert await call(server, "echo", text="hello") == "hello"
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["MCP server srv prints lines that aren't messages; they are skipped"]


async def test_a_flood_of_garbage_leaves_room_for_others() -> None:
    async with good("stdio") as other, longest_gap(0.5), bad("flood", limit_s=1) as server:
        assert server.problem == "no answer within 1 s"
        with at_once():
            assert await call(other, "echo", text="hello") == "hello"


@pytest.mark.parametrize("kind", ["stdio", "http", "http legacy"])
async def test_a_long_result_is_taken_and_a_longer_one_is_refused(kind: str) -> None:
    async with good(kind) as server, longest_gap(1):
        assert len(await call(server, "megabytes", number=15)) == 15 * 1024**2
        with pytest.raises(ToolError, match=r"16 MB|16777216 byte"):
            await call(server, "megabytes", number=17)
        if kind == "stdio":  # its connection has come to an end
            await until(lambda: server.state == "failed")
        await until(lambda: server.state == "ready")
        assert await call(server, "echo", text="hello") == "hello"
