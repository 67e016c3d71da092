"""An answer's body whose bytes the tests hand over, in place of a connection and aiohttp's parser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp

from odysseus.upstream.arrived import Arrived

__all__ = ["SILENCE_S", "Protocol", "Wire"]

SILENCE_S = 60.0


class Protocol:
    """The connection, as far as a body has to do with it. *more* is what its parser still has when it may go on."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.read_timeout: float | None = 5.0
        self.calls: list[str] = []
        self.more: Callable[[], None] = lambda: None

    def data_received(self, data: bytes) -> None:
        self.more()

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self, resume_parser: bool = True) -> None:
        if resume_parser:
            self.calls.append("resume")
            more, self.more = self.more, lambda: None
            more()

    def eof_received(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...

    pause_writing = resume_writing = eof_received


class Wire:
    """An answer whose body the tests feed."""

    def __init__(self, *early: bytes, protocol: Protocol | None = None) -> None:
        self.protocol = protocol or Protocol()
        self.content = aiohttp.StreamReader(self.protocol, 2**18, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        for data in early:
            self.content.feed_data(data)
        self.aborted = 0
        self.ends: list[str] = []
        """How the response was let go, each time."""
        self.tapped: Any = None
        """What gets the connection's bytes."""
        transport = SimpleNamespace(abort=self._abort, get_extra_info=self._no_socket, set_protocol=self._set_protocol)
        self.response: Any = SimpleNamespace(
            content=self.content,
            connection=SimpleNamespace(protocol=self.protocol, transport=transport),
            release=lambda: self.ends.append("released"),
            close=lambda: self.ends.append("closed"),
        )
        self.protocol.calls.clear()
        self.used: list[bytes] = []
        self.arrived = Arrived(self.response, SILENCE_S, self._use)
        self.uses = False
        """Whether what is offered is used."""

    def feed(self, *parts: bytes) -> None:
        """One read of the connection brings *parts*, each in a chunk of its own."""
        more, self.protocol.more = self.protocol.more, lambda: self.parse(*parts)
        self.tapped.data_received(b"")
        self.protocol.more = more

    def parse(self, *parts: bytes) -> None:
        for data in parts:
            self.content.feed_data(data)

    def _use(self, data: bytes) -> bool:
        if self.uses:
            self.used.append(data)
        return self.uses

    def _set_protocol(self, protocol: Any) -> None:
        self.tapped = protocol

    def _no_socket(self, _: str) -> None:
        raise OSError("closed already")

    def _abort(self) -> None:
        self.aborted += 1
