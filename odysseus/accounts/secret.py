"""The secret that signs what we give out, such as watch links."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from odysseus.errors import SettingsError

__all__ = ["signing_secret"]

_log = logging.getLogger(__name__)

_LEAST_CHARS = 32


def signing_secret(setting: SecretStr | None, folder: Path) -> bytes:
    """Return *setting*, or what the file `secret` in the data folder holds, which is made if need be.

    Raises `SettingsError`. Call it while the folder is held: two at once would make two.
    """
    if setting is not None:
        return setting.get_secret_value().encode()
    path = folder / "secret"
    try:
        if not path.exists():
            _make(path)
        secret = path.read_bytes().strip()
        if path.stat().st_mode & 0o077:
            _log.warning("%s can be read by others: chmod 600 it", path)
    except OSError as error:
        raise SettingsError("ODYSSEUS_DATA_DIR", f"{path} can't be used: {error.strerror}") from error
    if len(secret) < _LEAST_CHARS:
        raise SettingsError("ODYSSEUS_DATA_DIR", f"{path} is damaged: delete it, and links given out end to work")
    return secret


def _make(path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # of a start that was killed here
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(handle)
    partial.replace(path)  # a file with this name is always whole
