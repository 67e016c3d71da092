"""Agents brought to each stage of their loop, in front of real MCP servers, and what must be left of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fake_upstream import Exchange, Script, in_turn, wants
from tests.process.models import Models, before_headers, before_token
from tests.process.raw_client import LIMIT_S, Client, until
from tests.process.service import REPOSITORY

__all__ = ["STAGES", "Scene", "descendants", "gone", "mcp_servers"]

MANY_TOOLS = [sys.executable, "-m", "tests.tools.mcp_servers.many_tools"]

STAGES: dict[str, dict[str, str]] = {
    "before headers": {},
    "silence": {},
    "half a call": {},
    "a tool": {"c1": "stopped"},
    "a tool over http": {"c1": "stopped"},
    "several tools": {"c0": "391", "c1": "stopped", "c2": "stopped"},
    "approval": {"c1": "stopped"},
    "silence after a result": {"c0": "391"},
}
"""The stages, and the results that the saved answer of a run holds which ends there, by call."""

_SUM = ("c0", "calculator", '{"expression": "17 * 23"}')


class Scene:
    """One run on its way to *stage*."""

    def __init__(self, stage: str, models: Models, folder: Path) -> None:
        self.stage = stage
        self._models = models
        self._folder = folder
        self._cancelling: list[Path] = []
        self._beginning: list[Path] = []
        self._silent = asyncio.Event()
        self.prompt = models.plan(self._script())

    async def reached(self, client: Client) -> None:
        """Wait until the run is where it shall be."""
        await self._models.exchange_of(self.prompt)
        if self.stage in ("half a call", "silence after a result"):
            await asyncio.wait_for(self._silent.wait(), 30)
        for result in STAGES[self.stage].values():
            await read_until(client, "tool_call" if result == "stopped" else "tool_result")
        if self.stage == "approval":
            await read_until(client, "approval_request")
        await until(self._begun, bool)

    async def cancelled(self) -> None:
        """Wait until the MCP servers know that their calls are cancelled."""
        await until(self._is_cancelled, bool)

    async def _begun(self) -> bool:
        return all(path.exists() for path in self._beginning)

    async def _is_cancelled(self) -> bool:
        return all(path.exists() for path in self._cancelling)

    def check(self, answer: dict[str, Any]) -> None:
        """What a session keeps of the run: every call has its result, in order."""
        parts = answer["parts"]
        calls = [part["call_id"] for part in parts if part["type"] == "tool_call"]
        results = {part["call_id"]: part for part in parts if part["type"] == "tool_result"}
        assert {call_id: result["output"] for call_id, result in results.items()} == STAGES[self.stage]
        assert calls == sorted(results)
        assert all(result["is_error"] == (result["output"] == "stopped") for result in results.values())

    def _script(self) -> Script:
        match self.stage:
            case "before headers":
                return before_headers
            case "silence":
                return before_token
            case "half a call":
                return self._then_silent(wants(_SUM, ("c1", "calculator", '{"expression": "1"}'), done=False))
            case "a tool":
                return wants(self._wait(1))
            case "a tool over http":
                return wants(self._wait(1, "http"))
            case "several tools":
                return wants(_SUM, self._wait(1), self._wait(2, "http"))
            case "approval":
                return wants(("c1", "current_time", "{}"))
            case _:
                return in_turn(wants(_SUM), self._then_silent(before_headers))

    def _wait(self, number: int, server: str = "stdio") -> tuple[str, str, str]:
        begun, cancelled = (self._folder / f"{self._models.next_number()}.{what}" for what in ("begun", "cancelled"))
        self._beginning.append(begun)
        self._cancelling.append(cancelled)
        return f"c{number}", f"{server}__wait", json.dumps({"begun": str(begun), "cancelled": str(cancelled)})

    def _then_silent(self, script: Script) -> Script:
        async def said(exchange: Exchange) -> None:
            self._silent.set()
            await script(exchange)

        return said


async def read_until(client: Client, kind: str) -> None:
    while not any(payload["type"] == kind for payload in client.payloads):
        await client.read()


@asynccontextmanager
async def mcp_servers(folder: Path) -> AsyncIterator[Path]:
    """Run an MCP server over HTTP; yield a configuration that names it, and the same one over stdio."""
    serving = await asyncio.create_subprocess_exec(*MANY_TOOLS, "http", cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert serving.stdout is not None
    try:
        port = int(await serving.stdout.readline())
        config = folder / "odysseus.toml"
        config.write_text(f"""
            tools_need_approval = ["current_time"]
            [[mcp_servers]]
            name = "stdio"
            command = {json.dumps(MANY_TOOLS[0])}
            args = {json.dumps([*MANY_TOOLS[1:], "stdio"])}
            cwd = {json.dumps(str(REPOSITORY))}
            [[mcp_servers]]
            name = "http"
            url = "http://127.0.0.1:{port}/mcp"
        """)
        yield config
    finally:
        serving.kill()
        await serving.wait()


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes that *pid* has started, and that those have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = set(), [pid]
    while left:
        found.update(below := children.get(left.pop(), []))
        left += below
    return found


async def gone(processes: set[int]) -> None:
    """Wait until none of *processes* is there any more."""

    await asyncio.wait_for(asyncio.gather(*map(_ended, processes)), LIMIT_S)


async def _ended(pid: int) -> None:
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(watched, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
