"""`odysseus serve --workers N`: several nodes on one machine and one port, and who starts them.

The kernel spreads the connections over them (SO_REUSEPORT); in all else they are nodes like any others, which find
each other by Redis and PostgreSQL. This process serves nobody. It looks after theirs, which end when it does.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

from odysseus.data_folder import data_folder
from odysseus.errors import SettingsError
from odysseus.greeting import greet
from odysseus.logs import configuration
from odysseus.settings import Settings

__all__ = ["run"]

_log = logging.getLogger(__name__)

_OPTION = "--workers"
_WORKER = (sys.executable, "-m", "odysseus.worker")
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)  # before one is started again; the last one stays
_WELL_S = 60.0  # who has worked for so long has not died of its start
_IN_PEACE = (0, -signal.SIGTERM)  # the second is one that was told to go while it still began


def run(settings: Settings, count: int) -> int:
    """Keep *count* workers until SIGTERM or SIGINT; return the exit code. Raises `SettingsError`."""
    if count < 1:
        raise SettingsError(_OPTION, f"needs at least 1 (got {count})")
    if settings.redis_url is None:
        raise SettingsError(_OPTION, "they are nodes of one service: set ODYSSEUS_REDIS_URL, see docs/scale.md")
    if settings.port == 0:
        raise SettingsError("ODYSSEUS_PORT", f"0 would give each of the {_OPTION} another one")
    logging.config.dictConfig(configuration(settings.log_format, settings.log_level, messages=settings.log_messages))
    with data_folder(settings.data_dir):
        return asyncio.run(_Workers(settings, count).keep())


class _Workers:
    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._folders = [settings.data_dir / f"worker-{number}" for number in range(1, count + 1)]
        self._processes: dict[Path, Process] = {}  # those that were started last, by their folders
        self._stopping = asyncio.Event()

    async def keep(self) -> int:
        """Return 0 if all have ended in peace."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        _tell_of_spools(self._settings.data_dir, self._folders)
        failed = await self._start()
        if failed is not None:
            self._stop()
        elif not self._stopping.is_set():
            greet(self._settings.host, self._settings.port)
        codes = await asyncio.gather(*(self._keep(folder) for folder in self._processes))
        if failed is not None:
            return failed
        return 0 if set(codes) <= {*_IN_PEACE} else 1

    def _stop(self) -> None:
        """Let all of them drain; the second time, they hurry."""
        self._stopping.set()
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)

    async def _start(self) -> int | None:
        """Start all and wait until they are ready; return the exit code of one that ends instead."""
        first, *others = self._folders
        await self._spawn(first)
        failed = await self._failed(first)  # alone: it brings the tables up to date, and what is wrong is said once
        if failed is not None or self._stopping.is_set():
            return failed
        for folder in others:
            await self._spawn(folder)
        codes = await asyncio.gather(*(self._failed(folder) for folder in others))
        return next((code for code in codes if code is not None), None)

    async def _failed(self, folder: Path) -> int | None:
        process = self._processes[folder]
        assert process.stdout is not None
        if await process.stdout.readline() or self._stopping.is_set():
            return None
        return await process.wait() or 1

    async def _spawn(self, folder: Path) -> None:
        self._processes[folder] = await asyncio.create_subprocess_exec(
            *_WORKER,
            env=os.environ | {"ODYSSEUS_DATA_DIR": str(folder)},
            stdin=PIPE,  # by which it learns of our end
            stdout=PIPE,
            process_group=0,  # a Ctrl-C is ours to pass on: with the terminal's own they would have two, and hurry
        )

    async def _keep(self, folder: Path) -> int:
        """Start the worker again whenever it ends, until it is told to go; return its exit code then."""
        loop = asyncio.get_running_loop()
        failures = 0
        begun = loop.time()
        while True:
            process = self._processes[folder]
            code = await process.wait()
            if self._stopping.is_set():
                return code
            failures = 0 if loop.time() - begun > _WELL_S else failures
            pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
            words = "%s, process %d, has ended with %d, and is started again in %g s"
            _log.warning(words, folder.name, process.pid, code, pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
                    return 0
            except TimeoutError:
                pass
            failures += 1
            begun = loop.time()
            await self._spawn(folder)
            if self._stopping.is_set():  # just now: it wasn't among those that were told
                self._processes[folder].send_signal(signal.SIGTERM)


def _tell_of_spools(data_dir: Path, used: Sequence[Path]) -> None:
    """Say where answers wait for a process that nobody starts: there were more workers, or none."""
    for spool in sorted({data_dir / "spool", *data_dir.glob("worker-*/spool")}):
        if spool.parent not in used and any(spool.glob("*.json")):
            _log.warning("answers wait in %s for the store: serve once with ODYSSEUS_DATA_DIR=%s", spool, spool.parent)
