"""API tokens: `ody_<id>_<secret>`, of which only the id and a hash of the secret are stored.

The secret is 256 random bits. A slow hash protects secrets that can be guessed; this one can't, so SHA-256 is enough,
and a request costs no processor time that an attacker could spend for us.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from odysseus.accounts import Identity, checked_owner
from odysseus.errors import Unauthorized

__all__ = ["ApiTokens", "StoredToken", "TokenStore", "new_token"]

_SHAPE = re.compile(r"ody_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_ID = re.compile(r"[0-9a-f]{12}")
_NOBODYS_HASH = hashlib.sha256(b"").hexdigest()  # no secret is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    id: str
    name: str
    """The owner of what is done with it. Several tokens may have one name."""
    hash: str
    created_at: datetime
    revoked_at: datetime | None = None


class TokenStore(Protocol):
    async def token(self, token_id: str) -> StoredToken | None: ...


def new_token(name: str) -> tuple[str, StoredToken]:
    """Return a token for *name*, as its user gets it and as it is stored. Raises `ValueError` for a name that can't be.

    A name that looks like an id is none, so that `revoke` is never in doubt which of the two it was given.
    """
    try:
        checked_owner(name)
    except Unauthorized as error:
        raise ValueError(str(error)) from None
    if _ID.fullmatch(name):
        raise ValueError("the user's name looks like the id of a token")
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    stored = StoredToken(id=token_id, name=name, hash=_hash(secret), created_at=datetime.now(UTC))
    return f"ody_{token_id}_{secret}", stored


class ApiTokens:
    """`AUTH=token`."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store

    async def identify(self, bearer: str | None, users: Sequence[str], peer: str | None) -> Identity:
        if bearer is None:
            raise Unauthorized("a token is needed: Authorization: Bearer ody_..")
        shape = _SHAPE.fullmatch(bearer)
        if shape is None:
            raise Unauthorized("the token is not valid")
        token_id, secret = shape.groups()
        stored = await self._store.token(token_id)
        # Also where there is no such token: the time an answer takes must not tell which ids there are.
        same = hmac.compare_digest(_hash(secret), _NOBODYS_HASH if stored is None else stored.hash)
        if stored is None or not same:
            raise Unauthorized("the token is not valid")
        if stored.revoked_at is not None:
            raise Unauthorized("the token has been revoked")
        return Identity(stored.name, token_id=stored.id)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
