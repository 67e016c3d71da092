"""The client module's own tests, which run in Node: parser cut at every byte, resuming, what events add up to."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "odysseus" / "web" / "static"
TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))
LIMIT_S = 120.0


async def test_the_client_in_node(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        reason = "Node isn't installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    # Copied, because older Nodes take .js for a module only where a package.json says so.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for path in (*STATIC.glob("*.js"), *TESTS):
        shutil.copy(path, tmp_path)
    assert TESTS
    running = await asyncio.create_subprocess_exec(
        node, "--test", *(path.name for path in TESTS), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        said, _ = await running.communicate()
    assert running.returncode == 0, said.decode()
