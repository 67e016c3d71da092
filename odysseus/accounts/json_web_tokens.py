"""JSON Web Tokens (RFC 7519), made by somebody else: `AUTH=jwt`.

What a key is good for is decided by the key: a token's header may choose among the keys there are, by `kid`, and has no
say in the algorithm (RFC 8725, section 3.1). Keys that a token brings along (`jwk`, `jku`, `x5u`) are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import jwt

from odysseus.accounts import Identity, checked_owner
from odysseus.errors import Unauthorized

__all__ = ["JsonWebTokens"]

_MAX_CHARS = 8192
_LEEWAY_S = 10  # how far the maker's clock may be from ours
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# In the order they are looked up: each is told only to somebody whose signature is right.
_REASONS = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
)


class JsonWebTokens:
    """*key_of* returns the key of a `kid`, or of a token without one, and None if there is none."""

    def __init__(
        self, key_of: Callable[[str | None], jwt.PyJWK | None], *, audience: str | None, issuer: str | None
    ) -> None:
        self._key_of = key_of
        self._audience = audience
        self._issuer = issuer

    async def identify(self, bearer: str | None, users: Sequence[str], peer: str | None) -> Identity:
        if bearer is None:
            raise Unauthorized("a token is needed: Authorization: Bearer ..")
        if len(bearer) > _MAX_CHARS:
            raise Unauthorized(f"the token is longer than {_MAX_CHARS} characters")
        if not _SHAPE.fullmatch(bearer):
            raise Unauthorized("the token is not valid")
        try:
            claims = self._claims(bearer)
            expires_at = datetime.fromtimestamp(claims["exp"] + _LEEWAY_S, UTC)
            return Identity(checked_owner(claims["sub"]), expires_at=expires_at)
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"the token has no {error.claim}") from error
        except jwt.PyJWTError as error:
            reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "the token is not valid")
            raise Unauthorized(reason) from error
        # What becomes of nonsense: times out of range or no number, lists nested a thousand times.
        except (ValueError, TypeError, OverflowError, RecursionError, OSError) as error:
            raise Unauthorized("the token is not valid") from error

    def _claims(self, token: str) -> dict[str, Any]:
        key = self._key_of(jwt.get_unverified_header(token).get("kid"))
        if key is None:
            raise Unauthorized("the token is not valid")
        return jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._audience,
            issuer=self._issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "sub"]},
        )
