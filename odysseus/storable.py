"""What can be sent and stored, made of whatever a model or a tool says. Pure."""

from __future__ import annotations

from typing import Any

import orjson

__all__ = ["storable", "storable_object"]


def storable(text: str) -> str:
    """Replace what has no place in a frame or a database: lone surrogates have no UTF-8, PostgreSQL has no NUL."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def storable_object(text: str) -> dict[str, Any]:
    """Return the JSON object in *text*. Raises `ValueError` if it isn't one, or can't be stored."""
    try:
        value = orjson.loads(orjson.dumps(orjson.loads(text)))  # there and back: what is too deep can't be sent on
    except orjson.JSONEncodeError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if "\\u0000" in text:
        raise ValueError("a NUL character can't be stored")
    return value
