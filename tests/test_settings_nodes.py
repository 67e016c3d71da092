"""What belongs to several nodes, and what they can't be without."""

from __future__ import annotations

import os

import pytest

from odysseus.errors import SettingsError
from odysseus.settings import Settings

NODES = {
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://odysseus@127.0.0.1/odysseus",
    "SECRET": "sesame-0123456789-sesame-0123456789",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("ODYSSEUS_"):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"ODYSSEUS_{name}", value)
    return Settings.load()


def test_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, NODES | {"REDIS_REQUIRED": "true"}).redis_required


@pytest.mark.parametrize(
    ("changed", "setting", "problem"),
    [
        ({"DATABASE_URL": ""}, "REDIS_URL", "set ODYSSEUS_DATABASE_URL to postgresql://"),
        ({"DATABASE_URL": "sqlite:///here.db"}, "REDIS_URL", "set ODYSSEUS_DATABASE_URL to postgresql://"),
        ({"SECRET": ""}, "REDIS_URL", "set ODYSSEUS_SECRET, on all the same"),
        ({"REDIS_URL": "", "REDIS_REQUIRED": "true"}, "REDIS_REQUIRED", "is set, but ODYSSEUS_REDIS_URL isn't"),
    ],
)
def test_what_they_lack(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], setting: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, NODES | changed)
    assert refused.value.setting == f"ODYSSEUS_{setting}"
    assert problem in refused.value.problem
