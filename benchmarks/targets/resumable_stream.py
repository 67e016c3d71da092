"""Vercel's resumable-stream: a server in Node, and the Redis that it needs. Both count."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.response import Response
from benchmarks.target import ROOT, Ability, Target, Unavailable, free_port, install
from benchmarks.upstream import token

__all__ = ["ResumableStream"]

_PEER = ROOT / "benchmarks" / "peers" / "resumable_stream"


class ResumableStream(Target):
    name = "resumable-stream"
    abilities = frozenset({Ability.DETACHED})

    def prepare(self) -> None:
        install("redis-server", needs="redis-server")
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                raise Unavailable(f"there is no {program}")
        if not (_PEER / "node_modules").is_dir():
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            if subprocess.run(command, cwd=_PEER, stdout=sys.stderr, check=False).returncode:
                raise Unavailable("npm could not install its packages")

    async def start(self, folder: Path, upstream_port: int) -> None:
        redis_port = free_port()
        redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(redis_port), "--dir", str(folder), "--save", ""]
        await self.launch(redis, folder, port=redis_port)
        server = ["node", str(_PEER / "server.mjs"), str(self.port), str(upstream_port)]
        environment = {"REDIS_URL": f"redis://127.0.0.1:{redis_port}", "NODE_ENV": "production"}
        await self.launch(server, folder, port=self.port, environment=environment)

    def event_id(self, response: Response, number: int) -> str:
        """It resumes after so many characters; all of ours are ASCII."""
        end = b"\n\n"
        return str(response.body.index(end, response.body.index(token(number))) + len(end))
