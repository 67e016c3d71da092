"""What is installed, started and stopped as `docs/deploy.md` says: the wheel, the unit's cage, gunicorn's settings."""

from __future__ import annotations

import asyncio
import ctypes.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process.models import Cue, Models
from tests.process.service import APP, REPOSITORY, Process, books, check_books, environment
from tests.test_deploy import copied, instruction, missing, program

pytestmark = pytest.mark.process

GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py"),
    "odysseus.application:create_runner",
]


@asynccontextmanager
async def running(
    command: Sequence[str], models: Models | None, folder: Path, **settings: Any
) -> AsyncIterator[Process]:
    process = await asyncio.to_thread(Process, command, environment(models, folder, settings))
    try:
        await process.started()
        yield process
    finally:
        process.kill()
        await process.wait()


def call(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    assert done.returncode == 0, done.stdout
    return done.stdout


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of what the Dockerfile copies, and nothing else."""
    source = tmp_path_factory.mktemp("source")
    for name, target in copied():
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, source / target)
    folder = tmp_path_factory.mktemp("wheels")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)  # so that nothing is fetched
    call(sys.executable, "-m", "pip", "wheel", *options, source)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh virtual environment that has the wheel, and finds what it needs in ours."""
    folder = tmp_path_factory.mktemp("installed")
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    call(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--no-deps", "--no-index", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    # The editable install of the repository, which ours has, isn't among them: a .pth file in there isn't read.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "ours.pth").write_text("".join(f"{path}\n" for path in others))
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    package = REPOSITORY / "odysseus"
    files = {path.relative_to(REPOSITORY).as_posix() for path in package.rglob("*") if path.is_file()}
    ours = {name for name in files if "__pycache__" not in name}
    assert {"odysseus/py.typed", "odysseus/store/migrations/script.py.mako"} < ours
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == ours


async def test_the_wheel_serves_from_anywhere(installed: Path, tmp_path: Path) -> None:
    """With the demo model, SQLite and its migrations; the image's own health check finds it well, then gone."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(elsewhere), str(installed / "odysseus"), "serve"]
    where = await asyncio.to_thread(call, installed / "python", "-c", "import odysseus; print(odysseus.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    async with running(command, None, tmp_path / "data") as service:
        client = await service.chat("Hello!")
        await client.read_all()
        assert (client.complete, client.payloads[-1]["status"]) == (True, "done")
        assert client.text
        assert await healthy(service.port) == 0
        service.terminate()
        assert await service.wait() == 0
        assert not service.faults
        assert await healthy(service.port) != 0
    check_books(tmp_path / "data")
    assert not list(elsewhere.iterdir())


async def healthy(port: int) -> int:
    """Return how the image's health check exits."""
    program, *arguments = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    assert program == "python"
    check = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), env={"ODYSSEUS_PORT": str(port)}, stderr=asyncio.subprocess.DEVNULL
    )
    return await check.wait()


# The unit

CAGE = """
import ctypes, errno, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, from Linux 6.3 on: what MemoryDenyWriteExecute=yes does
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
cage = ctypes.c_void_p(library.seccomp_init(0x50000 | errno.EPERM))
for name in sys.argv[1].split(","):
    if (number := library.seccomp_syscall_resolve_name(name.encode())) != -1:
        library.seccomp_rule_add(cage, 0x7FFF0000, number, 0)
assert library.seccomp_load(cage) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def calls_of_the_unit() -> str:
    """The system calls that its filters leave."""
    if ctypes.util.find_library("seccomp") is None:
        missing("libseccomp")
    calls: set[str] = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", (REPOSITORY / "deploy/odysseus.service").read_text(), re.M):
        named = {call for name in value.removeprefix("~").split() for call in expanded(name)}
        calls = calls - named if value.startswith("~") else calls | named
    return ",".join(calls)


def expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    _, *lines = call(program("systemd-analyze"), "syscall-filter", name).splitlines()
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return {call for word in words for call in expanded(word)}


async def test_the_service_lives_in_the_units_cage(calls_of_the_unit: str, tmp_path: Path) -> None:
    """A system call that the filter forbids is answered with EPERM, as the unit says."""
    async with running([sys.executable, "-c", CAGE, calls_of_the_unit, *APP], None, tmp_path) as service:
        assert "Seccomp:\t2" in await asyncio.to_thread(Path(f"/proc/{service.process.pid}/status").read_text)
        client = await service.chat("What is 17 * 23?", mode="agent")
        await client.read_all()
        assert client.payloads[-1]["status"] == "done"
        service.terminate()
        assert await service.wait() == 0
        assert not service.faults
    check_books(tmp_path)


# gunicorn


@pytest.mark.asyncio(loop_scope="module")
async def test_gunicorn_with_its_settings(models: Models, tmp_path: Path) -> None:
    """It streams, and a run that SIGTERM finds is saved with what it had said."""
    async with running(GUNICORN, models, tmp_path, drain_s=0.5) as service:
        done, cut = Cue("Hello"), Cue("Hello")
        done.end()
        first = await service.chat(models.plan(done))
        await first.read_all()
        assert (first.complete, first.payloads[-1]["status"]) == (True, "done")
        second = await service.chat(models.plan(cut))
        await second.read_text("Hello")
        asked_at = time.monotonic()
        service.terminate()
        await second.read_all()
        assert (second.complete, second.payloads[-1]["stop_reason"]) == (True, "shutdown")
        assert await service.wait() == 0
        assert time.monotonic() - asked_at < 10
        assert not service.faults
        assert "GunicornUVLoopWebWorker" in "\n".join(service.log)
    check_books(tmp_path)
    assert books(tmp_path)[first.session_id][1][1:] == ("done", None, "Hello")
    assert books(tmp_path)[second.session_id][1][1:] == ("interrupted", "shutdown", "Hello")
