"""The house: imports go down only, and the ground knows no event loop, no socket and no driver."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "odysseus"

GROUND = (
    ("sse", "replay", "states", "tombstones", "storable", "rates", "logs", "markdown", "ratings"),
    ("errors", "events", "transcript", "server_settings", "ledger"),
    ("messages", "answer", "settings"),
)
FLOORS = (
    *GROUND,
    ("tasks", "feed", "data_folder", "accounts", "greeting"),
    ("run",),
    ("upstream", "store", "watchdogs", "tether"),
    ("saves", "checkpoints", "lifetime", "conversation", "tools", "approvals", "concealed"),
    ("agent", "runs"),
    ("generation", "cluster"),
    ("stream_status", "turns", "snapshots"),
    ("alone",),
    ("elsewhere", "receipt", "told"),
    ("service", "webhook", "ended_line", "recovery"),
    ("among_others",),
    ("compares", "audit"),
    ("web",),
    ("application", "tokens", "terminal", "check_database", "check_redis"),
    ("serving", "workers", "chat_client", "check"),
    ("cli", "worker"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield from (
                (f"odysseus.{name.name}" for name in node.names) if node.module == "odysseus" else (node.module,)
            )


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("odysseus.")}
    assert {other for other in ours - {room, "__version__", "__doc__"} if FLOOR_OF[other] >= FLOOR_OF[room]} == set()


@pytest.mark.parametrize(
    ("rooms", "unknown"),
    [
        (sum(GROUND, ()), {"asyncio", "socket", "aiohttp", "aiohttp_sse", "sqlalchemy", "threading"}),
        (
            ("feed", "run", "runs", "lifetime", "watchdogs", "tasks"),
            {"aiohttp", "aiohttp_sse", "sqlalchemy", "pydantic"},
        ),
        (
            ("feed", "run", "runs", "lifetime"),
            {f"odysseus.{room}" for room in ("store", "upstream", "generation", "web", "events")},
        ),
        (("generation", "saves", "checkpoints"), {"aiohttp", "aiohttp_sse", "odysseus.runs", "odysseus.web"}),
        (("agent", "approvals", "conversation"), {"aiohttp", "mcp", "odysseus.runs", "odysseus.store", "odysseus.web"}),
        (("tools",), {"odysseus.store", "odysseus.upstream", "odysseus.runs", "odysseus.web", "sqlalchemy"}),
        (("cluster",), {f"odysseus.{room}" for room in ("store", "upstream", "generation", "web")} | {"aiohttp"}),
        (("service", "compares", "alone", "elsewhere", "among_others"), {"aiohttp", "aiohttp_sse", "mcp"}),
        (("upstream",), {"odysseus.store", "sqlalchemy"}),
        (("store",), {"odysseus.upstream", "aiohttp"}),
        (
            ("terminal", "chat_client"),
            {"odysseus.settings", "odysseus.store", "odysseus.runs", "odysseus.web", "pydantic"},
        ),
        (("accounts",), {"asyncio", "aiohttp", "sqlalchemy", "odysseus.store", "odysseus.runs", "odysseus.web"}),
    ],
)
def test_what_a_room_knows_nothing_of(rooms: tuple[str, ...], unknown: set[str]) -> None:
    for path in MODULES:
        if room_of(path) in rooms:
            names = {".".join(name.split(".")[:depth]) for name in imported(path) for depth in (1, 2)}
            assert names & unknown == set(), path
