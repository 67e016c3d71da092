"""The API is as /openapi.json describes it, also for requests that nobody thought of: schemathesis makes them.

It runs as its command does, against the real process, with a fixed seed and a limit on its time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.accounts.forge import SECRET, claims, hs256
from tests.fake_upstream import Exchange, say
from tests.process.attacks import LEFT_ALONE
from tests.process.models import Models
from tests.process.service import Process, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "use_after_free",
    "unsupported_method",
    "allow_header_conformance",
)
LIMIT_S = 90.0  # on a slow machine, at which it is no matter of the service any more


class Brief(Models):
    """Answers every prompt at once: most of them are schemathesis's own."""

    async def _play(self, exchange: Exchange) -> None:
        await say("Hello")(exchange)


async def schemathesis(service: Process, folder: Path, *options: str) -> str:
    """Let it try the service; return what it says. Fails with it when it has found something."""
    command = (
        *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run"),
        *(f"http://127.0.0.1:{service.port}/openapi.json", "--checks", ",".join(CHECKS)),
        *("--seed", "1", "--generation-deterministic", "--request-timeout", "10"),
        *("--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all", *options),
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def check(service: Process) -> None:
    """It is well, and has ended all that it was asked to."""
    assert not service.faults, "\n".join(service.faults)
    await service.until_metric("odysseus_runs", 0)


async def test_the_description_is_true(tmp_path: Path) -> None:
    settings: dict[str, Any] = LEFT_ALONE
    async with Brief() as models, serving(models, tmp_path / "data", **settings) as service:
        said = await schemathesis(service, tmp_path, "--max-examples", "12")
        assert "No issues found" in said
        await check(service)


async def test_and_with_accounts(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"auth": "jwt", "auth_jwt_secret": SECRET, **LEFT_ALONE}
    async with Brief() as models, serving(models, tmp_path / "data", **settings) as service:
        token = hs256(claims(sub="ann"))
        options = ("--phases", "examples,coverage,fuzzing", "--max-examples", "3")
        await schemathesis(service, tmp_path, "--header", f"Authorization: Bearer {token}", *options)
        nobody = await schemathesis(service, tmp_path, "--phases", "fuzzing", "--max-examples", "1")
        assert "No issues found" in nobody
        await check(service)
