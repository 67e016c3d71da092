"""The log of the real process: each line JSON if it is to be, under gunicorn too, and no word of what was said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.process.service import APP
from tests.process.test_deploy import GUNICORN, running

pytestmark = pytest.mark.process

SAID = "sesame\n2026-01-01T00:00:00.000Z ERROR odysseus: forged"


async def log_of(command: list[str], folder: Path, **settings: Any) -> tuple[list[str], str]:
    """Let a service answer once; return its log, and the run's id."""
    async with running(command, None, folder, **settings) as service:
        client = await service.chat(SAID)
        await client.read_all()
        run_id = client.payloads[0]["run_id"]
        service.terminate()
        assert await service.wait() == 0
        return service.log, run_id


@pytest.mark.parametrize("command", [[*APP], GUNICORN], ids=["app.py", "gunicorn"])
async def test_json(command: list[str], tmp_path: Path) -> None:
    log, run_id = await log_of(command, tmp_path / "data", log_format="json")
    records = [json.loads(line) for line in log]
    assert all({"time", "level", "logger", "message"} <= set(record) for record in records)
    assert "sesame" not in "".join(log)
    [ended] = [record for record in records if record["message"] == "run ended"]
    assert (ended["run_id"], ended["status"], ended["stop_reason"]) == (run_id, "done", None)
    assert ended["session_id"].startswith("ses_") and ended["duration_ms"] >= 0


@pytest.mark.parametrize("command", [[*APP], GUNICORN], ids=["app.py", "gunicorn"])
async def test_text_with_messages(command: list[str], tmp_path: Path) -> None:
    log, run_id = await log_of(command, tmp_path / "data", log_messages="true")
    [ended] = [line for line in log if " run ended " in line]
    assert f'run_id="{run_id}"' in ended and f"user_message={json.dumps(SAID)}" in ended
    assert not any(line.startswith("2026-01-01") for line in log)


async def test_the_level(tmp_path: Path) -> None:
    log, _ = await log_of([*APP], tmp_path / "data", log_level="error")
    assert log == []
