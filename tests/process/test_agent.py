"""Agents under the same guarantees: stopped, left, killed and sent away at each stage of their loop."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fake_upstream import in_turn, wants
from tests.process.agents import STAGES, Scene, descendants, gone, mcp_servers
from tests.process.models import Models, words
from tests.process.raw_client import Client, until
from tests.process.service import Process, Service, check_books, served, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

CASES = [(stage, direct) for stage in STAGES for direct in (False, True) if not (direct and stage == "approval")]
ids = [f"{stage}, {'compare' if direct else 'normal'}" for stage, direct in CASES]
EVERYWHERE = pytest.mark.parametrize(("stage", "compare_mode"), CASES, ids=ids)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def config(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    async with mcp_servers(tmp_path_factory.mktemp("mcp")) as config:
        yield config


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["app.py", "gunicorn"])
async def service(
    request: pytest.FixtureRequest, models: Models, config: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    async with served(models, tmp_path_factory.mktemp("data"), request.param, config=config) as service:
        yield service
    await models.all_closed()


async def begin(service: Service, scene: Scene, *, compare_mode: bool) -> Client:
    client = await service.chat(scene.prompt, mode="agent", compare_mode=compare_mode)
    await scene.reached(client)
    return client


async def goes_on(service: Service, models: Models, session_id: str, turns: int = 2) -> None:
    """The session's next turn is one that a strict provider takes."""
    client = await service.chat(models.plan(words(2)[0]), session_id=session_id, mode="agent")
    await client.read_all()
    assert client.payloads[-1]["status"] == "done"
    await service.settled(session_id, turns)


@EVERYWHERE
async def test_stopped(service: Service, models: Models, tmp_path: Path, stage: str, compare_mode: bool) -> None:
    scene = Scene(stage, models, tmp_path)
    client = await begin(service, scene, compare_mode=compare_mode)
    since = time.monotonic()
    receipt = await service.stop(client.session_id)
    await models.closes(scene.prompt, since, 3)
    assert time.monotonic() - since < 3
    assert (receipt.json["stopped"], receipt.json["status"]) == (True, "stopped")
    await scene.cancelled()
    await client.read_all()
    assert client.complete
    told = {payload["call_id"]: payload["output"] for payload in client.payloads if payload["type"] == "tool_result"}
    assert told == STAGES[stage]
    [answer] = await service.settled(client.session_id)
    assert (answer["status"], answer["stop_reason"]) == ("stopped", "user_stop")
    scene.check(answer)
    await goes_on(service, models, client.session_id)


@EVERYWHERE
async def test_left(service: Service, models: Models, tmp_path: Path, stage: str, compare_mode: bool) -> None:
    """A compare stops with its client, whatever it is at; a normal run doesn't, and is stopped by the next one."""
    scene = Scene(stage, models, tmp_path)
    client = await begin(service, scene, compare_mode=compare_mode)
    since = time.monotonic()
    client.close()
    if compare_mode:
        await models.closes(scene.prompt, since, 3)
        reason = "client_disconnect"
    else:
        again = await service.resume(client.session_id)
        await scene.reached(again)
        assert (await service.status(client.session_id))["status"] == "streaming"
        assert again.body.startswith(client.body)
        assert (await service.stop(client.session_id)).json["stopped"]
        reason = "user_stop"
    await scene.cancelled()
    [answer] = await service.settled(client.session_id)
    assert (answer["status"], answer["stop_reason"]) == ("stopped", reason)
    scene.check(answer)
    await goes_on(service, models, client.session_id)


async def test_tools_over_both_transports(service: Service, models: Models) -> None:
    calls = [(f"c{n}", f"{server}__echo", json.dumps({"text": server})) for n, server in enumerate(("stdio", "http"))]
    client = await service.chat(models.plan(in_turn(wants(*calls), words(1)[0])), mode="agent")
    await client.read_all()
    results = {payload["name"]: payload for payload in client.payloads if payload["type"] == "tool_result"}
    assert {name: result["output"] for name, result in results.items()} == {
        "stdio__echo": "stdio",
        "http__echo": "http",
    }
    assert not any(result["is_error"] for result in results.values())
    listed = (await service.get("/api/tools")).json
    assert {(server["name"], server["transport"], server["state"]) for server in listed["servers"]} == {
        ("stdio", "stdio", "ready"),
        ("http", "http", "ready"),
    }
    assert {tool["source"] for tool in listed["tools"]} == {"built-in", "stdio", "http"}


async def test_a_server_that_dies_in_a_call(service: Service, models: Models) -> None:
    """The model is told, the run goes on, and the server comes back."""
    pids = []
    for _ in range(2):
        calls = [("c1", "stdio__process_id", "{}")], [("c2", "stdio__die", "{}")]
        script = in_turn(wants(*calls[0]), wants(*calls[1]), words(2)[0])
        client = await service.chat(models.plan(script), mode="agent")
        await client.read_all()
        assert client.payloads[-1]["status"] == "done"
        one, other = (payload for payload in client.payloads if payload["type"] == "tool_result")
        assert (one["is_error"], other["is_error"]) == (False, True)
        pids.append(one["output"])
        await until(lambda: service.get("/api/tools"), lambda answer: "ready" in _state(answer.json, "stdio"))
    assert pids[0] != pids[1]


def _state(tools: Any, name: str) -> str:
    return next(str(server["state"]) for server in tools["servers"] if server["name"] == name)


async def everywhere(service: Process, models: Models, folder: Path) -> list[tuple[Scene, Client, bool]]:
    """Bring runs to every stage, in both lifetimes."""
    begun = []
    for stage, compare_mode in CASES:
        scene = Scene(stage, models, folder)
        begun.append((scene, await begin(service, scene, compare_mode=compare_mode), compare_mode))
    return begun


@pytest.mark.parametrize("way", ["app.py", "gunicorn"])
async def test_kill_9(models: Models, config: Path, tmp_path: Path, way: str) -> None:
    async with serving(models, tmp_path, way, config=config) as service:
        begun = await everywhere(service, models, tmp_path)
        await until(lambda: checkpointed(tmp_path), lambda seen: seen == expected_results())
        processes = descendants(service.process.pid)
        assert len(processes) >= 2  # the MCP server, and what watches over it
        service.kill()
        await service.wait()
        await gone(processes)
        await models.all_closed()
    async with serving(models, tmp_path, way, config=config) as service:
        for scene, client, _ in begun:
            [answer] = await service.settled(client.session_id)
            assert (answer["status"], answer["stop_reason"]) == ("interrupted", "node_lost")
            scene.check(answer)
            await goes_on(service, models, client.session_id)
    check_books(tmp_path)


def expected_results() -> list[int]:
    return sorted(len(STAGES[stage]) for stage, _ in CASES)


async def checkpointed(folder: Path) -> list[int]:
    """Return how many calls the checkpoints of all streaming answers hold."""
    with closing(sqlite3.connect(folder / "odysseus.db")) as database:
        rows = database.execute("SELECT parts FROM messages WHERE status = 'streaming'").fetchall()
    return sorted(sum(part["type"] == "tool_call" for part in json.loads(parts)) for (parts,) in rows)


@pytest.mark.parametrize("way", ["app.py", "gunicorn"])
async def test_sigterm(models: Models, config: Path, tmp_path: Path, way: str) -> None:
    async with serving(models, tmp_path, way, config=config, drain_s=0.3) as service:
        begun = await everywhere(service, models, tmp_path)
        processes = descendants(service.worker)
        assert len(processes) >= 2
        service.terminate()
        for scene, client, _ in begun:
            await client.read_all()
            assert (client.complete, client.payloads[-1]["stop_reason"]) == (True, "shutdown")
            await scene.cancelled()
        assert await service.wait() == 0
        assert not service.faults
        await gone(processes)
        await models.all_closed()
    check_books(tmp_path)
    async with serving(models, tmp_path, way, config=config) as service:
        for scene, client, _ in begun:
            [answer] = await service.settled(client.session_id)
            assert (answer["status"], answer["stop_reason"]) == ("interrupted", "shutdown")
            scene.check(answer)
            await goes_on(service, models, client.session_id)


async def test_a_hanging_server_holds_nobody_up(models: Models, config: Path, tmp_path: Path) -> None:
    """It is stopped in its tracks, in the middle of a call: a stop is as prompt as ever, and so is the shutdown."""
    async with serving(models, tmp_path, config=config, drain_s=0) as service:
        scene = Scene("a tool", models, tmp_path)
        client = await begin(service, scene, compare_mode=False)
        processes = descendants(service.worker)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        since = time.monotonic()
        assert (await service.stop(client.session_id)).json["stopped"]
        assert time.monotonic() - since < 3
        await goes_on(service, models, client.session_id)
        service.terminate()
        assert await service.wait() == 0
        await gone(processes)
    check_books(tmp_path)
