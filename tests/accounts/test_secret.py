"""The signing secret: set, or made once and kept for itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from odysseus.accounts.secret import signing_secret
from odysseus.errors import SettingsError


def refusal(folder: Path) -> str:
    with pytest.raises(SettingsError) as refused:
        signing_secret(None, folder)
    assert refused.value.setting == "ODYSSEUS_DATA_DIR"
    return refused.value.problem


def test_the_setting_goes_first(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("y" * 43)
    assert signing_secret(SecretStr("ä" * 32), tmp_path) == ("ä" * 32).encode()
    assert signing_secret(SecretStr("x" * 32), tmp_path / "nowhere") == b"x" * 32


def test_it_is_made_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    umask = os.umask(0)
    try:
        made = signing_secret(None, tmp_path)
    finally:
        os.umask(umask)
    assert len(made) == 43
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert signing_secret(None, tmp_path) == made
    assert not caplog.records
    (tmp_path / "secret").unlink()
    assert signing_secret(None, tmp_path) != made


def test_a_start_that_was_killed_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "secret.partial").write_text("half")
    made = signing_secret(None, tmp_path)
    assert (len(made), [path.name for path in tmp_path.iterdir()]) == (43, ["secret"])


def test_a_line_end_of_an_editor_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("z" * 40 + "\n")
    assert signing_secret(None, tmp_path) == b"z" * 40


def test_others_that_can_read_it_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret").write_text("z" * 40)
    (tmp_path / "secret").chmod(0o640)
    with caplog.at_level(logging.WARNING):
        signing_secret(None, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/secret can be read by others: chmod 600 it"
    ]


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_a_file_that_holds_none(tmp_path: Path, content: str) -> None:
    """It isn't made anew: that would end what was given out without a word."""
    (tmp_path / "secret").write_text(content)
    assert "is damaged" in refusal(tmp_path)
    assert (tmp_path / "secret").read_text() == content


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    assert refusal(tmp_path) == f"{tmp_path}/secret can't be used: Is a directory"
    assert refusal(tmp_path / "nowhere") == f"{tmp_path}/nowhere/secret can't be used: No such file or directory"
