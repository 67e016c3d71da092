"""The servers in Python: what could be done at best, Odysseus, and what people write."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.response import Response
from benchmarks.target import Ability, Target
from benchmarks.upstream import token

__all__ = ["FastApi", "Limit", "Odysseus"]


class Limit(Target):
    name = "limit"
    abilities = frozenset(Ability) - {Ability.LOG}  # it keeps the model server's bytes, many times an event's

    async def start(self, folder: Path, upstream_port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.peers.limit", str(self.port), str(upstream_port)]
        await self.launch(command, folder, port=self.port)

    def event_id(self, response: Response, number: int) -> str:
        """Its events have no ids: it resumes at a byte of the chunked body."""
        end = b"\n\n\r\n"
        return str(response.raw.index(end, response.raw.index(token(number))) + len(end))


class Odysseus(Target):
    """`python app.py` with SQLite, set as for a big installation, and otherwise as it comes."""

    name = "odysseus"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = settings

    async def start(self, folder: Path, upstream_port: int) -> None:
        environment = {
            "ODYSSEUS_PORT": str(self.port),
            "ODYSSEUS_DATA_DIR": str(folder / "data"),
            "ODYSSEUS_UPSTREAM_URL": f"http://127.0.0.1:{upstream_port}/v1",
            "ODYSSEUS_UPSTREAM_MODELS": "bench",
            "ODYSSEUS_MAX_RUNS": "10000",
            "ODYSSEUS_DRAIN_S": "0",
            **self._settings,
        }
        await self.launch([sys.executable, "app.py"], folder, port=self.port, environment=environment)


class FastApi(Target):
    name = "fastapi"

    async def start(self, folder: Path, upstream_port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.peers.fastapi_peer", str(self.port), str(upstream_port)]
        await self.launch(command, folder, port=self.port)
