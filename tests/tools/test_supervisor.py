"""With real processes, seen in /proc: what a server has started ends with it, however that comes about."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from odysseus.server_settings import McpServerSettings
from odysseus.tools import supervisor
from odysseus.tools.mcp import McpServer
from tests.waiting import soon, until

BAD = Path(__file__).parent / "mcp_servers" / "bad.py"
SUPERVISOR = (sys.executable, "-I", "-S", supervisor.__file__)
KEEP_A_SERVER = """
import asyncio, sys, uvloop
from odysseus.server_settings import McpServerSettings
from odysseus.tools.mcp import McpServer

async def main() -> None:
    McpServer(McpServerSettings(name="srv", command=sys.executable, args=tuple(sys.argv[1:]))).start()
    await asyncio.sleep(600)

uvloop.run(main())
"""


def members(group: int) -> list[int]:
    """Return the processes of *group* that live; a dead one that nobody has waited for is no concern of ours."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group_there = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just ended
        if int(group_there) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Return the file where servers note their groups; whatever a failed test leaves of those is ended."""
    file = tmp_path / "groups"
    yield file
    for group in groups(file):
        if members(group):
            os.killpg(group, signal.SIGKILL)


def groups(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


async def group_of(file: Path) -> int:
    await until(lambda: groups(file))
    return groups(file)[0]


@asynccontextmanager
async def started(*args: str) -> AsyncIterator[McpServer]:
    settings = McpServerSettings(name="srv", command=sys.executable, args=(str(BAD), *args))
    server = McpServer(settings, limit_s=600, pauses_s=(600, 600))
    server.start()
    yield server
    await soon(server.close())


async def test_a_server_that_exits_leaves_nothing_behind(file: Path) -> None:
    async with started("family", str(file)) as server:
        group = await group_of(file)
        await until(lambda: not members(group))
        await soon(server.settled.wait())
        assert server.problem == f"the command {sys.executable} ended"


async def test_closing_ends_a_stubborn_server_and_its_children(file: Path) -> None:
    async with started("stubborn", str(file)):
        group = await group_of(file)
        assert len(members(group)) == 4  # the supervisor, the server and two children
    await until(lambda: not members(group))  # what is killed takes a moment to be gone


async def test_closing_ends_a_server_that_is_stopped(file: Path) -> None:
    async with started("stubborn", str(file)):
        group = await group_of(file)
        for process_id in members(group):
            os.kill(process_id, signal.SIGSTOP)  # the supervisor, too
    await until(lambda: not members(group))


async def test_a_killed_service_leaves_no_server_behind(file: Path) -> None:
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", KEEP_A_SERVER, str(BAD), "stubborn", str(file))
    group = await group_of(file)
    assert len(members(group)) == 4
    service.kill()
    await service.wait()
    await until(lambda: not members(group))


async def test_a_killed_supervisor_leaves_no_server_behind(file: Path) -> None:
    async with started("stubborn", str(file)) as server:
        group = await group_of(file)
        os.kill(group, signal.SIGKILL)  # its leader
        await until(lambda: not members(group))
        await soon(server.settled.wait())


async def test_a_service_that_is_dead_already_gets_no_server(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    process = await asyncio.create_subprocess_exec(*SUPERVISOR, "1", "touch", str(begun), start_new_session=True)
    assert await soon(process.wait()) == 1
    assert not begun.exists()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 5"), 5),
        (("sh", "-c", "kill -9 $$"), 128 + 9),
        (("no-such-command",), 127),
        (("/etc/passwd",), 126),
    ],
)
async def test_it_exits_as_the_server_did(command: tuple[str, ...], code: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *SUPERVISOR, str(os.getpid()), *command, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    assert await soon(process.wait()) == code
