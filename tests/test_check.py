"""`odysseus check`: what it says of every part, and that it leaves everything as it found it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from odysseus.check import Finding, check
from odysseus.data_folder import data_folder
from odysseus.store import Database, database_url
from tests.fake_upstream import FakeUpstream, Script, silent, status

KEY = "sesame-0123456789"
REPOSITORY = Path(__file__).parents[1]
ODYSSEUS = Path(sys.executable).with_name("odysseus")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of nobody but the test, and a data folder that isn't there."""
    for name in os.environ:
        if name.upper().startswith("ODYSSEUS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ODYSSEUS_PORT", "0")
    monkeypatch.setenv("ODYSSEUS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


async def findings() -> dict[str, Finding]:
    async with asyncio.timeout(60):
        found = {finding.part: finding async for finding in check()}
    assert not any(KEY in finding.words or "\n" in finding.words for finding in found.values())
    return found


async def found(part: str) -> tuple[bool, str]:
    finding = (await findings())[part]
    return finding.ok, finding.words


# Settings


async def test_a_fresh_start(folder: Path) -> None:
    assert await findings() == {
        "settings": Finding(True, "settings", "the environment"),
        "data folder": Finding(True, "data folder", f"{folder} would be made"),
        "database": Finding(True, "database", f"{folder}/odysseus.db would be made"),
        "model server": Finding(True, "model server", "none is set: the demo model would answer"),
        "port": Finding(True, "port", "any free one of 127.0.0.1 would be taken"),
    }
    assert not os.listdir(folder.parent)


async def test_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODYSSEUS_PROT", "1")
    assert await findings() == {
        "settings": Finding(False, "settings", "ODYSSEUS_PROT: no such setting; did you mean ODYSSEUS_PORT?")
    }


async def test_a_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odysseus.toml").write_text("drain_s = 1")
    monkeypatch.setenv("ODYSSEUS_CONFIG", str(tmp_path / "odysseus.toml"))
    assert await found("settings") == (True, f"the environment and {tmp_path}/odysseus.toml")


# The data folder


async def test_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODYSSEUS_DATA_DIR", str(tmp_path))
    assert await found("data folder") == (True, f"{tmp_path} can be written")
    assert not os.listdir(tmp_path)


async def test_a_folder_in_use(folder: Path) -> None:
    with data_folder(folder):
        assert await found("data folder") == (True, f"{folder} is used by a running service, process {os.getpid()}")
        assert os.listdir(folder) == ["lock"]
        assert (folder / "lock").read_text() == str(os.getpid())
    assert await found("data folder") == (True, f"{folder} can be written")
    with data_folder(folder):
        pass


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("/proc/nowhere", "can't write in /proc: "),
        ("setup.cfg", "can't write in {cwd}/setup.cfg: Not a directory; "),
        ("setup.cfg/data", "can't write in {cwd}/setup.cfg"),
        ("x" * 300, "File name too long; "),
    ],
)
async def test_folders_that_cannot_be(place: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("ODYSSEUS_DATA_DIR", place)
    ok, words = await found("data folder")
    assert not ok
    assert words.startswith("ODYSSEUS_DATA_DIR: ")
    assert problem.format(cwd=REPOSITORY) in words


# The database


async def test_a_database_that_is_there(folder: Path) -> None:
    with data_folder(folder):
        database = Database(database_url(f"sqlite:///{folder}/odysseus.db"))
        await database.open()
        await database.close()
    ok, words = await found("database")
    assert (ok, words.startswith(f"{folder}/odysseus.db is up to date, at revision ")) == (True, True)


@pytest.mark.parametrize(
    ("setting", "ok", "words"),
    [
        ("mysql://host/name", False, "mysql: only sqlite and postgresql are supported"),
        ("sqlite:////proc/nowhere/x.db", False, "can't write in /proc: "),
        ("sqlite:////dev/null/x.db", False, "can't write in /dev/null: "),
        ("sqlite:///{tmp}/a b%3F#c/x.db", True, "/x.db would be made"),
    ],
)
async def test_places_of_databases(
    setting: str, ok: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODYSSEUS_DATABASE_URL", setting.format(tmp=tmp_path))
    good, said = await found("database")
    assert (good, words in said) == (ok, True), said


# Model servers


def listing(body: object) -> Script:
    return status(200, json.dumps(body).encode())


LIST = listing({"data": [{"id": "m"}, {"id": "n"}]})


@pytest.mark.parametrize(
    ("script", "settings", "ok", "words"),
    [
        (LIST, {}, True, "can be reached, models: m, n"),
        (LIST, {"MODELS": "n"}, True, "can be reached, models: n"),
        (LIST, {"MODELS": "n,x"}, True, "can be reached; its list lacks what the settings name: x"),
        (LIST, {"API_KEY": KEY}, True, "can be reached, models: m, n"),
        (status(401, KEY.encode()), {"API_KEY": KEY}, False, "refuses the key (it answered 401)"),
        (status(403), {}, False, "wants a key, and none is set (it answered 403)"),
        (status(404), {}, False, "(it answered 404); does the URL end where /models begins, as in /v1?"),
        (status(404), {"MODELS": "m"}, True, "it doesn't list its models, the settings name m"),
        (status(500, KEY.encode()), {"API_KEY": KEY}, False, "gives no list of models (it answered 500)"),
        (listing({"data": []}), {}, False, "serves no model"),
        (listing(["m"]), {}, False, "gives no list of models"),
        (status(200, b"<h1>Hello</h1>", "text/html"), {}, False, "gives no list of models"),
    ],
)
async def test_model_servers(
    script: Script, settings: dict[str, str], ok: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeUpstream(silent) as server:
        server.listing = script
        monkeypatch.setenv("ODYSSEUS_UPSTREAM_URL", server.url)
        for name, value in settings.items():
            monkeypatch.setenv(f"ODYSSEUS_UPSTREAM_{name}", value)
        good, said = await found("model server default")
    assert (good, words in said) == (ok, True), said
    assert server.url in said
    assert said.startswith("ODYSSEUS_UPSTREAM_URL: ") != ok


async def test_a_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    async def script(exchange: Any) -> None:
        keys.append(exchange.headers["authorization"])
        await LIST(exchange)

    async with FakeUpstream(silent) as server:
        server.listing = script
        monkeypatch.setenv("ODYSSEUS_UPSTREAM_URL", server.url)
        monkeypatch.setenv("ODYSSEUS_UPSTREAM_API_KEY", KEY)
        await findings()
    assert keys == [f"Bearer {KEY}"]


async def test_several_model_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeUpstream(silent) as server:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            gone = f"http://user:{KEY}@127.0.0.1:{nobody.getsockname()[1]}/v1"
            (tmp_path / "odysseus.toml").write_text(f"""
                upstreams = [{{name = "here", url = "{server.url}"}}, {{name = "gone", url = "{gone}?key={KEY}"}}]
            """)
            monkeypatch.setenv("ODYSSEUS_CONFIG", str(tmp_path / "odysseus.toml"))
            all_ = await findings()
    assert all_["model server here"].ok
    assert not all_["model server gone"].ok
    assert all_["model server gone"].words.endswith("/v1 can't be reached: Connection refused")


# MCP servers


async def test_mcp_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odysseus.toml").write_text(f"""
        [[mcp_servers]]
        name = "good"
        command = {json.dumps(sys.executable)}
        args = ["-m", "tests.tools.mcp_servers.many_tools", "stdio"]
        cwd = {json.dumps(str(REPOSITORY))}
        tools = ["wait"]
        [[mcp_servers]]
        name = "bad"
        command = "no-such-command"
        env = {{TOKEN = "{KEY}"}}
    """)
    monkeypatch.setenv("ODYSSEUS_CONFIG", str(tmp_path / "odysseus.toml"))
    all_ = await findings()
    assert all_["MCP server good"] == Finding(True, "MCP server good", "can be started, tools: 1")
    problem = "mcp_servers, bad: there is no command no-such-command; runs would go on without its tools"
    assert all_["MCP server bad"] == Finding(False, "MCP server bad", problem)


# The port


@asynccontextmanager
async def listening(answer: str) -> AsyncIterator[int]:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=answer, content_type="application/json")

    app = web.Application()
    app.router.add_get("/healthz", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "in_use", "ok"),
    [('{"status":"ok"}', True, True), ('{"status":"ok"}', False, False), ("[1]", True, False), ("", True, False)],
)
async def test_a_port_in_use(
    answer: str, in_use: bool, ok: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the service that uses the same data may have it."""
    async with listening(answer) as port:
        monkeypatch.setenv("ODYSSEUS_PORT", str(port))
        with data_folder(folder if in_use else folder.with_name("other")):
            good, words = await found("port")
    taken = f"ODYSSEUS_PORT: 127.0.0.1:{port} is in use: stop who uses it, or set another port"
    assert (good, words) == (ok, f"the running service listens at 127.0.0.1:{port}" if ok else taken)


async def test_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("ODYSSEUS_PORT", str(port))
    assert await found("port") == (True, f"127.0.0.1:{port} is free")
    with socket.create_server(("127.0.0.1", port)):
        pass  # it still is


async def test_a_host_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODYSSEUS_HOST", "127.0.0.1.invalid")
    monkeypatch.setenv("ODYSSEUS_OPEN_TO_NETWORK", "true")
    ok, words = await found("port")
    assert not ok
    assert words.startswith("ODYSSEUS_HOST: can't listen on 127.0.0.1.invalid:0: ")


# The command


@pytest.mark.parametrize(
    ("settings", "code", "lines"),
    [
        ({}, 0, ["ok     settings: the environment", "ok     data folder: data would be made"]),
        ({"UPSTREAM_URL": "http://127.0.0.1:1/v1", "UPSTREAM_API_KEY": KEY}, 1, ["WRONG  model server default: "]),
        ({"PORT": "high"}, 1, ["WRONG  settings: ODYSSEUS_PORT: "]),
    ],
)
def test_the_command(settings: dict[str, str], code: int, lines: list[str], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ODYSSEUS_")}
    environment |= {f"ODYSSEUS_{name}": value for name, value in ({"PORT": "0"} | settings).items()}
    done = subprocess.run(
        [ODYSSEUS, "check"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, "")
    for line in lines:
        assert any(said.startswith(line) for said in done.stdout.splitlines()), done.stdout
    assert KEY not in done.stdout
    assert not list(tmp_path.iterdir())
