"""Watch links: whoever has one may read one run's stream until it expires, and do nothing else.

A link is signed and not stored. It names the run and not its owner, whom the people it is passed on to needn't know.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from odysseus.errors import Unauthorized

__all__ = ["Link", "read", "sign"]

_ID = r"[A-Za-z0-9_-]{1,64}"
_SIGNED = re.compile(rf"({_ID})\.({_ID})\.([0-9]{{1,12}})")
_SHAPE = re.compile(rf"({_SIGNED.pattern})\.([A-Za-z0-9_-]{{43}})")
_PURPOSE = b"odysseus watch link 1\n"  # what the same secret signs for another purpose is no link


@dataclass(frozen=True, slots=True)
class Link:
    session_id: str
    run_id: str
    expires_at: datetime


def sign(secret: bytes, session_id: str, run_id: str, expires_at: datetime) -> str:
    """Return the link's text, which fits into a URL as it is. It expires at a whole second."""
    signed = f"{session_id}.{run_id}.{int(expires_at.timestamp())}"
    if not _SIGNED.fullmatch(signed):
        raise ValueError(f"no link can name {signed!r}")
    return f"{signed}.{_signature(secret, signed)}"


def read(secret: bytes, text: str, now: datetime) -> Link:
    """Return what *text* links to. Raises `Unauthorized` if it isn't ours, or has expired at *now*."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise Unauthorized("the link is not valid")
    signed, session_id, run_id, seconds, signature = shape.groups()
    if not hmac.compare_digest(_signature(secret, signed), signature):
        raise Unauthorized("the link is not valid")
    link = Link(session_id, run_id, datetime.fromtimestamp(int(seconds), UTC))
    if now >= link.expires_at:
        raise Unauthorized("the link has expired")
    return link


def _signature(secret: bytes, signed: str) -> str:
    digest = hmac.digest(secret, _PURPOSE + signed.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
