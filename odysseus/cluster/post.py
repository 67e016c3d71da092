"""What nodes say to each other: letters into each other's inboxes, some of which want an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.streams import Streams
from odysseus.errors import AlreadyDecided, NodeUnreachable, NotFound, RequestError
from odysseus.messages import new_id
from odysseus.tasks import Tasks

__all__ = ["Post"]

_log = logging.getLogger(__name__)

_ANSWER_S = 3.0
_REFUSALS = {error.code: error for error in (NotFound, AlreadyDecided)}

Handler = Callable[..., Awaitable[Any]]


class Post:
    def __init__(self, streams: Streams, tasks: Tasks, handlers: Mapping[str, Handler]) -> None:
        """*handlers* are called with a letter's values; what they return must be JSON, and answers whoever asked."""
        self.node = ""
        """Who we are: the name of our inbox."""
        self.lost = 0
        """Letters that couldn't be sent."""
        self._streams = streams
        self._tasks = tasks
        self._handlers = handlers
        self._asked: dict[str, asyncio.Future[Any]] = {}  # by the letter's id

    def tell(self, node: str, verb: str, /, **values: object) -> None:
        """Send a letter, some time soon. It is lost if Redis is."""
        self._tasks.spawn(self._try_to_send(node, {"verb": verb, "values": values}), apart=True)

    async def ask(self, node: str, verb: str, lost: str, /, **values: object) -> Any:
        """Return what *node* answers. Raises what it refuses with, and `NodeUnreachable`, which says *lost*."""
        letter_id = new_id("let")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[letter_id] = answer
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._send(node, {"verb": verb, "values": values, "id": letter_id, "from": self.node})
                return await answer
        except UNREACHABLE as error:
            raise NodeUnreachable(lost) from error
        finally:
            del self._asked[letter_id]

    def deliver(self, raw: bytes) -> None:
        letter = orjson.loads(raw)
        if "answers" in letter:
            self._answered(letter)
        else:
            self._tasks.spawn(self._handle(letter), apart=True)

    def _answered(self, letter: Mapping[str, Any]) -> None:
        asked = self._asked.get(letter["answers"])
        if asked is None or asked.done():
            return  # too late
        if (code := letter.get("refused")) is not None:
            asked.set_exception(_REFUSALS[code](letter["about"]))
        else:
            asked.set_result(letter.get("result"))

    async def _handle(self, letter: Mapping[str, Any]) -> None:
        answer: dict[str, Any] = {"answers": letter.get("id")}
        handler = self._handlers.get(letter["verb"])
        if handler is None:
            _log.warning("a letter wants %r, which this version doesn't know", letter["verb"])
            return
        try:
            answer["result"] = await handler(**letter["values"])
        except RequestError as error:
            if error.code not in _REFUSALS:
                raise
            answer |= {"refused": error.code, "about": error.args[0]}
        if "id" in letter:
            await self._try_to_send(letter["from"], answer)

    async def _try_to_send(self, node: str, letter: Mapping[str, Any]) -> None:
        try:
            await self._send(node, letter)
        except UNREACHABLE as error:
            self.lost += 1
            _log.info("a letter to node %s is lost: %r", node, error)

    async def _send(self, node: str, letter: Mapping[str, Any]) -> None:
        await self._streams.send(node, orjson.dumps(letter))
