"""What a start loads: not what only others need, or what is needed once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = """
import asyncio, sys
from aiohttp import web
from odysseus.application import create_app
from odysseus.settings import Settings

async def start():
    runner = web.AppRunner(create_app(Settings.load()))
    await runner.setup()
    await runner.cleanup()

asyncio.run(start())
print(*{name.partition(".")[0] for name in sys.modules})
"""


def loaded(data_dir: Path) -> set[str]:
    """Start a service in a process of its own; return the packages that it has in the end."""
    environment = {**os.environ, "ODYSSEUS_DATA_DIR": str(data_dir)}
    done = subprocess.run([sys.executable, "-c", START], env=environment, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


def test_one_node_loads_what_it_needs(tmp_path: Path) -> None:
    """Each of these takes some hundredths of a second, and 5 to 11 MB: Redis' client, migrations, HTML, MCP."""
    assert "alembic" in loaded(tmp_path)  # there are no tables yet
    assert loaded(tmp_path) & {"alembic", "bs4", "mako", "mcp", "redis"} == set()
