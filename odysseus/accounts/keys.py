"""The keys that JSON Web Tokens are checked with: one shared secret, or the public keys of a JWKS file (RFC 7517)."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import HMACAlgorithm

from odysseus.errors import SettingsError

__all__ = ["KeyFile", "shared_secret"]

_log = logging.getLogger(__name__)

_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256"}
_LEAST_RSA_BITS = 2048
_Stamp = tuple[int, int, int]


def shared_secret(secret: str) -> jwt.PyJWK:
    """Return the key that *secret* is, for HS256. Raises `SettingsError` if it is one of a pair, which isn't secret."""
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        problem = "is a key of a pair; public keys belong in the file that ODYSSEUS_AUTH_JWT_JWKS names"
        raise SettingsError("ODYSSEUS_AUTH_JWT_SECRET", problem) from None
    key = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return jwt.PyJWK({"kty": "oct", "k": key}, "HS256")


class KeyFile:
    """The public keys in the file at *path*, which is read again when it has changed.

    Keys that are for something else (encryption, other algorithms) are left out. Raises `SettingsError` if the file
    can't be used at first; later that is logged, and the keys stay that were there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stamp: _Stamp | None = _stamp(path)
            self._keys = _read(path)
        except (OSError, ValueError) as error:
            raise SettingsError("ODYSSEUS_AUTH_JWT_JWKS", f"{path} can't be used: {_words(error)}") from error

    def key(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key called *kid*; None means the key without a name."""
        self._look()
        return self._keys.get(kid)

    def _look(self) -> None:
        """Read the file if it isn't the one read last. Looking costs microseconds, less than a check of a signature."""
        try:
            stamp = _stamp(self._path)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        self._stamp = stamp  # of before the reading: a file that changes meanwhile is read once more
        try:
            self._keys = _read(self._path)
        except (OSError, ValueError) as error:
            _log.error("%s can't be used, its old keys stay: %s", self._path, _words(error))
        else:
            _log.info("%s has changed and holds %d keys", self._path, len(self._keys))


def _stamp(path: Path) -> _Stamp:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path) -> Mapping[str | None, jwt.PyJWK]:
    """Return the file's keys by their `kid`. Raises `OSError` and `ValueError`."""
    try:
        content = json.loads(path.read_bytes())
        entries = content["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("it isn't a JSON object with a list of keys") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it isn't a JSON object with a list of keys")
    keys: dict[str | None, jwt.PyJWK] = {}
    for kid, key in _usable(entries):
        if kid in keys:
            raise ValueError(f"two of its keys have the kid {kid!r}")
        keys[kid] = key
    if not keys:
        raise ValueError("it holds no key for RS256 or ES256")
    return keys


def _usable(entries: list[dict[str, Any]]) -> Iterator[tuple[str | None, jwt.PyJWK]]:
    for entry in entries:
        kid, kind, curve = entry.get("kid"), entry.get("kty"), entry.get("crv")
        if not isinstance(kid, str | None):
            raise ValueError("a kid isn't a text")
        algorithm = next((name for known, name in _ALGORITHMS.items() if known == (kind, curve)), None)
        if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
            continue
        if "d" in entry:
            raise ValueError(f"its key {kid!r} is a private one, which doesn't belong here")
        try:
            key = jwt.PyJWK(entry, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"its key {kid!r} is broken") from error
        if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
            raise ValueError(f"its key {kid!r} is shorter than {_LEAST_RSA_BITS} bits")
        yield kid, key


def _words(error: OSError | ValueError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
