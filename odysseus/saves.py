"""The last save of an answer: tried, tried again, and put in a file when the store won't take it.

A `Final` given to `Saves.save` is on disk somewhere when the call returns: in the store, or in the spool, from where
the store gets it as soon as it can, at the latest at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from pydantic import TypeAdapter, ValidationError

from odysseus.ledger import Event, entry
from odysseus.messages import Final, now
from odysseus.tasks import Tasks

__all__ = ["FileSpool", "Saved", "Saves", "Spool"]

_log = logging.getLogger(__name__)
_final = TypeAdapter(Final)

_PAUSES_S = (0.1, 0.5)  # between the attempts on the store, so there is one attempt more than pauses
_ATTEMPT_S = 5.0
_REPEAT_S = 5.0  # between two looks at a spool that holds something


class Saved(NamedTuple):
    """Where an answer went, and how many attempts on the store that took."""

    to: Literal["store", "spool"]
    attempts: int
    first: bool = True
    """False if the store had another ending of it before; that one stays."""


class Spool(Protocol):
    """Where answers wait that the store didn't take. Errors are `OSError`."""

    async def put(self, final: Final) -> None:
        """Keep *final* durably, under its message's id."""

    async def all(self) -> list[Final]: ...

    async def remove(self, message_id: str) -> None: ...


class FileSpool:
    """One JSON file a message in *folder*, which is made when first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, final: Final) -> None:
        await asyncio.to_thread(self._put, final)

    async def all(self) -> list[Final]:
        return await asyncio.to_thread(lambda: list(self._read()))

    async def remove(self, message_id: str) -> None:
        await asyncio.to_thread(self._path(message_id).unlink, missing_ok=True)

    def _path(self, message_id: str) -> Path:
        return self._folder / f"{message_id}.json"

    def _put(self, final: Final) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(final.message_id)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(_final.dump_json(final))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)  # a file with its final name is always whole
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> Iterator[Final]:
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield _final.validate_json(path.read_bytes())
            except ValidationError as error:  # its own words hold pieces of the answer
                problems = "; ".join(problem["msg"] for problem in error.errors(include_input=False))
                _log.error("%s can't be read; it stays, renamed to *.unreadable: %s", path, problems)
                path.rename(path.with_suffix(".unreadable"))


class Saves:
    """Saves each answer once. *finish* is the store's compare-and-set: False if the message had ended before."""

    def __init__(
        self, finish: Callable[[Final], Awaitable[bool]], spool: Spool, tasks: Tasks, *, shared: bool = False
    ) -> None:
        """*shared*: there are other nodes, which may end what only waits in the spool; so nothing counts as saved
        before the store has it."""
        self.shared = shared
        self.retried = 0
        """How many attempts on the store failed, since the start."""
        self.spooled = 0
        """How many answers had to go to the spool, since the start."""
        self._finish = finish
        self._spool = spool
        self._tasks = tasks
        self._emptying: asyncio.Task[None] | None = None
        self._untried = False  # the spool holds something that came, or was refused, since it was last looked at
        self._closed = False

    async def save(self, final: Final) -> Saved:
        """Return when *final* is stored, or spooled if that counts. While that doesn't work it goes on trying."""
        attempts = 0
        spooled = False
        while True:
            for pause in (*_PAUSES_S, None):
                attempts += 1
                if (first := await self._stored(final, attempts)) is not None:
                    if spooled:
                        await self._spool.remove(final.message_id)
                    return Saved("store", attempts, first)
                if pause is not None:
                    await asyncio.sleep(pause)
            spooled = spooled or await self._spooled(final, attempts)
            if spooled and not self.shared:
                self._keep_emptying()
                return Saved("spool", attempts)
            await asyncio.sleep(_REPEAT_S)

    async def _spooled(self, final: Final, attempts: int) -> bool:
        try:
            async with asyncio.timeout(_ATTEMPT_S):
                await self._spool.put(_telling(final, Saved("spool", attempts)))
        except OSError:  # a timeout is one, too
            _log.exception("message %s: neither the store nor the spool took the answer", final.message_id)
            return False
        self.spooled += 1
        _log.error("message %s: the store didn't take the answer, it waits in the spool", final.message_id)
        return True

    async def recover(self) -> int:
        """Give the store what the spool holds; return how many answers it took.

        Those it refuses stay, and are tried again until `close`.
        """
        taken = refused = 0
        for final in await self._spool.all():
            try:
                async with asyncio.timeout(_ATTEMPT_S):
                    await self._finish(final)
            except Exception as error:
                _log.warning("message %s can't leave the spool yet: %r", final.message_id, error)
                refused += 1
            else:
                await self._spool.remove(final.message_id)
                taken += 1
        if refused:
            self._keep_emptying()
        return taken

    async def waiting(self) -> Collection[str]:
        """Return the ids of the messages that are in the spool."""
        return {final.message_id for final in await self._spool.all()}

    def close(self) -> None:
        """Stop looking at the spool; what it holds is for the next start."""
        self._closed = True
        if self._emptying is not None:
            self._emptying.cancel()

    def _keep_emptying(self) -> None:
        self._untried = True
        if self._emptying is None and not self._closed:
            self._emptying = self._tasks.spawn(self._empty_when_possible(), apart=True)

    async def _stored(self, final: Final, attempt: int) -> bool | None:
        """Return whether this is its first ending; None if the store failed."""
        try:
            async with asyncio.timeout(_ATTEMPT_S):
                first = await self._finish(_telling(final, Saved("store", attempt)))
        except Exception as error:
            self.retried += 1
            _log.warning("message %s: a save failed: %r", final.message_id, error)
            return None
        if not first:
            _log.info("message %s had ended before", final.message_id)
        return first

    async def _empty_when_possible(self) -> None:
        try:
            while self._untried:
                self._untried = False
                await asyncio.sleep(_REPEAT_S)
                try:
                    if taken := await self.recover():
                        _log.info("%d answers went from the spool to the store", taken)
                except OSError:
                    _log.exception("the spool can't be read")
                    self._untried = True
        finally:
            self._emptying = None


def _telling(final: Final, saved: Saved) -> Final:
    """Return *final* with its own saving in its ledger: if it is read there, it is true."""
    if final.ledger is None:
        return final
    return replace(final, ledger=[*final.ledger, entry(now(), Event.SAVED, to=saved.to, attempts=saved.attempts)])
