from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from odysseus.data_folder import data_folder
from odysseus.errors import SettingsError

HOLD = """
import sys, time
from pathlib import Path
from odysseus.data_folder import data_folder
with data_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as refused, data_folder(path):
        pass
    assert refused.value.setting == "ODYSSEUS_DATA_DIR"
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    return refused.value.problem


def test_it_is_made_and_held(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with data_folder(path) as folder:
        assert folder == path
        assert folder.is_dir()
        assert (folder / "lock").read_text() == str(os.getpid())


def test_one_at_a_time(tmp_path: Path) -> None:
    for _ in range(2):
        with data_folder(tmp_path):
            for _ in range(2):
                assert refusal(tmp_path) == f"{tmp_path} is used by another Odysseus, process {os.getpid()}"
            with data_folder(tmp_path / "other"):
                pass


def test_an_error_frees_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), data_folder(tmp_path):
        raise RuntimeError
    with data_folder(tmp_path):
        pass


@pytest.mark.parametrize("written", ["", "99999999999999999999", "4194304 and more"])
def test_what_an_older_holder_wrote_is_replaced(tmp_path: Path, written: str) -> None:
    (tmp_path / "lock").write_text(written)
    with data_folder(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_kill_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            assert refusal(tmp_path) == f"{tmp_path} is used by another Odysseus, process {holder.pid}"
        finally:
            holder.kill()
    with data_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("file", "File exists"),
        ("file/data", "Not a directory"),
        ("locked", "Is a directory"),
        ("\u00e4" * 200, "File name too long"),
        ("/proc/nowhere/data", "No such file or directory"),
    ],
)
def test_folders_that_cannot_be(tmp_path: Path, place: str, problem: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "locked" / "lock").mkdir(parents=True)
    assert refusal(tmp_path / place) == f"{tmp_path / place} can't be used: {problem}"
