"""Accounts: who a request is, told by what it brings along.

A service has one way to tell: `AUTH` names it and `configured` makes it. Nothing here knows a web framework, a session
or a database; that a thing belongs to its owner is the business of those who keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from odysseus.errors import Unauthorized

__all__ = ["NOBODY", "Accounts", "Identity", "NoAccounts", "checked_owner"]

_OWNER_CHARS = 255  # what OpenID Connect allows a `sub`, and more than a mail address has

NOBODY = ""
"""Who owns what is made without accounts. No account can have this name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request is. *owner* is a whole name: two that differ in case or form are two owners."""

    owner: str
    expires_at: datetime | None = None
    """When it ends to be true; an open stream ends with it."""
    token_id: str | None = None
    """The API token that said so, which can be revoked."""


class Accounts(Protocol):
    async def identify(self, bearer: str | None, users: Sequence[str], peer: str | None) -> Identity:
        """Return who a request is. Raises `Unauthorized`, and `StoreError` when the tokens can't be read.

        *bearer* is the token, of the `Authorization` header or of a cookie. *users* are all values of the proxy's user
        header. *peer* is the address of whoever is connected to us, None or empty at a Unix socket.
        """


class NoAccounts:
    """`AUTH=none`: everything belongs to nobody, and everybody may do everything."""

    async def identify(self, bearer: str | None, users: Sequence[str], peer: str | None) -> Identity:
        return Identity(NOBODY)


def checked_owner(name: object) -> str:
    """Return *name* if an owner can be called so. Raises `Unauthorized`.

    Owners stand in logs and headers, so a name is printable: no line end, no control or format character.
    """
    if not isinstance(name, str) or not name or name != name.strip():
        raise Unauthorized("the user's name is empty, or not a plain text")
    if len(name) > _OWNER_CHARS or not name.isprintable():
        raise Unauthorized(f"the user's name must be printable, and have at most {_OWNER_CHARS} characters")
    return name
