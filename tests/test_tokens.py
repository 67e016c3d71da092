"""`odysseus token`, as somebody at a terminal sees it."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from odysseus.accounts.api_tokens import ApiTokens
from odysseus.data_folder import data_folder
from odysseus.errors import Unauthorized
from odysseus.store import Database, database_url
from odysseus.store.tokens import Tokens
from odysseus.tokens import add_parser


class Told(NamedTuple):
    status: int
    out: list[str]
    err: list[str]


Say = Callable[..., Told]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that runs `odysseus token` with the arguments it is given."""
    for name in os.environ:
        if name.upper().startswith("ODYSSEUS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ODYSSEUS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ODYSSEUS_AUTH", "token")
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())

    def say(*arguments: str) -> Told:
        parsed = parser.parse_args(["token", *arguments])
        status = parsed.run(parsed)
        told = capsys.readouterr()
        return Told(status, told.out.splitlines(), told.err.splitlines())

    return say


async def owner_of(folder: Path, token: str) -> str:
    database = Database(database_url(f"sqlite:///{folder}/odysseus.db"))
    try:
        return (await ApiTokens(Tokens(database)).identify(token, [], None)).owner
    finally:
        await database.close()


def test_from_the_first_to_the_last(say: Say, tmp_path: Path) -> None:
    assert say("list") == (0, [], [])
    added = say("add", "alice")
    assert (added.status, len(added.out)) == (0, 1), "the token stands alone, for a script to take"
    assert added.err == ["This is the token. It is shown once and can't be found again."]
    [token] = added.out
    assert asyncio.run(owner_of(tmp_path / "data", token)) == "alice"
    token_id, secret = token.split("_", 2)[1:]

    say("add", "Zoë Müller")
    first, second = say("list").out
    assert re.fullmatch(rf"{token_id}  alice       made \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", first)
    assert "Zoë Müller  made" in second
    assert secret not in first

    assert say("revoke", token_id) == (0, [f"{token_id} of alice is revoked"], [])
    with pytest.raises(Unauthorized):
        asyncio.run(owner_of(tmp_path / "data", token))
    assert re.search(r"revoked \d{4}-\d\d-\d\d \d\d:\d\d UTC$", say("list").out[0])
    assert say("revoke", token_id).status == 0, "it is as asked for"


def test_the_secret_is_nowhere_in_the_database(say: Say, tmp_path: Path) -> None:
    secret = say("add", "alice").out[0].split("_", 2)[2]
    for path in (tmp_path / "data").iterdir():
        assert secret.encode() not in path.read_bytes(), path


def test_all_tokens_of_a_name(say: Say) -> None:
    for name in ("alice", "bob", "alice"):
        say("add", name)
    assert [line.split()[2] for line in say("revoke", "alice").out] == ["alice", "alice"]
    assert [("bob" in line, "revoked" in line) for line in say("list").out] == [
        (False, True), (True, False), (False, True)
    ]  # fmt: skip


def test_a_token_nobody_made(say: Say) -> None:
    say("add", "alice")
    told = say("revoke", "bob\x1b[31m")
    assert told == (2, [], ["odysseus: there is no token 'bob\\x1b[31m'; `odysseus token list` lists them"])


@pytest.mark.parametrize("name", ["", " ", "a\nb", "0123456789ab", "x" * 256])
def test_names_that_cannot_be(say: Say, name: str) -> None:
    told = say("add", name)
    assert (told.status, told.out) == (2, [])
    assert told.err[0].startswith("odysseus: the user's name ")
    assert say("list").out == []


def test_a_token_that_nobody_asks_for(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODYSSEUS_AUTH", "none")
    assert "It is good for nothing yet: ODYSSEUS_AUTH is none, not token." in say("add", "alice").err


def test_it_works_beside_the_service(say: Say, tmp_path: Path) -> None:
    """The folder is somebody's, and a transaction of theirs is under way in the database."""
    say("add", "alice")
    with data_folder(tmp_path / "data") as folder:
        service = sqlite3.connect(folder / "odysseus.db", isolation_level=None)
        service.execute("BEGIN")
        assert service.execute("SELECT count(*) FROM tokens").fetchone() == (1,)
        assert say("add", "bob").status == 0
        service.execute("COMMIT")
        assert service.execute("SELECT count(*) FROM tokens").fetchone() == (2,)
        service.close()
        assert say("revoke", "bob").status == 0
        assert len(say("list").out) == 2


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PORT", "x", "ODYSSEUS_PORT: "),
        ("DATABASE_URL", "mysql://host/name", "ODYSSEUS_DATABASE_URL: mysql"),
        ("DATABASE_URL", "postgresql://127.0.0.1:1/name", "ODYSSEUS_DATABASE_URL: can't open"),
        ("DATA_DIR", "/proc/nowhere", "ODYSSEUS_DATABASE_URL: can't open"),
    ],
)
@pytest.mark.parametrize("arguments", [("add", "alice"), ("list",), ("revoke", "alice")])
def test_settings_that_cannot_be(
    say: Say, monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv(f"ODYSSEUS_{name}", value)
    told = say(*arguments)
    assert (told.status, told.out, len(told.err)) == (2, [], 1)
    assert told.err[0].startswith(f"odysseus: {problem}")
