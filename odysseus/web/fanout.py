"""One run, many streams: what comes is put on the wire once and handed to every client that has taken all before it.

A task that is woken for each frame and each subscriber would be most of what a frame costs. A stream whose client is
behind is left to its own task, which goes on from its cursor in the run's log.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from odysseus.feed import Feed, Reader
from odysseus.web.routes import SERVICE
from odysseus.web.stream import EventStream, chunk

__all__ = ["Fanout", "follow", "send"]

_LONG = 64 * 1024  # a longer frame fills buffers: each client takes it at its own pace


class Fanout:
    """The outlet of *feed*: see `odysseus.feed.Outlet`."""

    def __init__(self, feed: Feed[bytes]) -> None:
        self._feed = feed
        self._riders: dict[EventStream, tuple[Reader[bytes], asyncio.Future[None]]] = {}
        self._handed = len(feed.log)
        """How many frames every rider has."""

    async def ride(self, stream: EventStream, reader: Reader[bytes]) -> None:
        """Hand frames to *stream*, which has all there are, until it has to read from the log again."""
        self._handed = reader.seq
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._riders[stream] = reader, released
        try:
            await released
        finally:
            self._riders.pop(stream, None)

    def push(self, frame: bytes) -> None:
        if len(frame) > _LONG:
            self.wake()
            return
        data = chunk(frame)
        behind = [stream for stream in self._riders if not stream.push(frame, data)]
        for stream in behind:
            self._release(stream)
        self._handed = len(self._feed.log)

    def wake(self) -> None:
        for stream in tuple(self._riders):
            self._release(stream)

    def _release(self, stream: EventStream) -> None:
        reader, released = self._riders.pop(stream)
        reader.seq = self._handed
        if not released.done():
            released.set_result(None)


async def follow(request: web.Request, feed: Feed[bytes], seq: int) -> web.StreamResponse:
    """Stream *feed* from frame *seq* on to this client, to its end. Leaving stops nothing."""
    stream = EventStream(request)
    with request.app[SERVICE].runs.reader(feed, seq) as reader:
        try:
            await stream.begin(feed.id, feed.session_id)
            await send(stream, reader)
        except ConnectionError:
            pass
        finally:
            stream.end()
    return stream


async def send(stream: EventStream, reader: Reader[bytes]) -> None:
    """Send *stream*, which has begun, what *reader* has before it, to the feed's end. Raises `ConnectionError`."""
    while True:
        if frames := reader.take():
            await stream.write(b"".join(frames))
            await asyncio.sleep(0)
        elif reader.feed.over:
            return
        else:
            await _fanout_of(reader.feed).ride(stream, reader)


def _fanout_of(feed: Feed[bytes]) -> Fanout:
    if feed.outlet is None:
        feed.outlet = Fanout(feed)
    assert isinstance(feed.outlet, Fanout)
    return feed.outlet
