"""The data folder: one process at a time may use it, because what it finds `streaming` there it takes for dead."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from odysseus.errors import SettingsError

__all__ = ["data_folder"]


@contextmanager
def data_folder(path: Path) -> Iterator[Path]:
    """Make the folder if need be and hold it. Raises `SettingsError` if it can't be used, or somebody holds it.

    The lock is the kernel's: a kill -9 frees it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SettingsError("ODYSSEUS_DATA_DIR", f"{path} can't be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode() or "unknown"
            raise SettingsError("ODYSSEUS_DATA_DIR", f"{path} is used by another Odysseus, process {holder}") from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield path
    finally:
        os.close(lock)
