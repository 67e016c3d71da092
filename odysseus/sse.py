"""Server-sent events as bytes: one encoder, one incremental decoder.

Source: HTML standard, section 9.2 ("Server-sent events"). What the events say is none of this module's business.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PING", "Decoder", "Event", "EventTooLong", "encode"]

PING = b": ping\n\n"
_BOM = b"\xef\xbb\xbf"
_LONGEST_NUMBER = 20  # digits; Python refuses to read numbers of thousands of them


def encode(data: bytes, event_id: str | None = None) -> bytes:
    """Return one frame with LF line ends. Neither *data* nor *event_id* may hold a line break (JSON never does)."""
    if event_id is None:
        return b"data: %b\n\n" % data
    return b"id: %b\ndata: %b\n\n" % (event_id.encode(), data)


class Event(NamedTuple):
    """One dispatched event. `data` stays bytes: an event is complete, so no character in it is cut."""

    data: bytes
    type: str = "message"
    last_event_id: str = ""


class EventTooLong(ValueError):
    """The lines of one event take more than the decoder's limit of `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"an event is longer than {self.limit} bytes"


class Decoder:
    """Decodes a stream that may be cut anywhere, also inside a line end, a BOM or a character.

    An event that the stream's end leaves unfinished is never dispatched. After `EventTooLong` the decoder is spent.
    `retry` is the last reconnection time the stream asked for, in milliseconds.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_event_size",
        "_first",
        "_id",
        "_limit",
        "_line",
        "_line_size",
        "_type",
        "retry",
    )

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self.retry: int | None = None
        self._limit = max_event_bytes
        self._first = True  # the first line, where a BOM may stand, hasn't ended yet
        self._after_cr = False  # the chunk before ended with CR: an LF now belongs to that line end
        self._line: list[bytes] = []  # pieces of a line whose end hasn't come; joined once, so long lines stay linear
        self._line_size = 0
        self._data: list[bytes] = []
        self._event_size = 0  # bytes of the complete lines of the event that is being read
        self._type = ""
        self._id = ""

    @property
    def between(self) -> bool:
        """Whether the next byte begins an event, and not the first line, where a BOM may stand."""
        return not (self._line or self._event_size or self._after_cr or self._first)

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that *chunk* completes, oldest first.

        Raises `EventTooLong`, but not before the events that came first have been returned: then at the next call.
        """
        events: list[Event] = []
        for line in self._complete_lines(chunk):
            if not line:
                self._dispatch(events)
            elif not self._take(line):
                break
        if self._line_size + self._event_size > self._limit and not events:
            raise EventTooLong(self._limit)
        return events

    def _complete_lines(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        if lines:
            if self._line:
                lines[0] = b"".join((*self._line, lines[0]))
                self._line.clear()
                self._line_size = 0
            if self._first:
                lines[0] = lines[0].removeprefix(_BOM)
                self._first = False
        if rest:
            self._line.append(rest)
            self._line_size += len(rest)
        return lines

    def _take(self, line: bytes) -> bool:
        """Take one field in; False when the event has become too long."""
        if line.startswith(b":"):
            return True
        self._event_size += len(line) + 1
        if self._event_size > self._limit:
            return False
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < _LONGEST_NUMBER:
            self.retry = int(value)
        return True

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            events.append(Event(b"\n".join(self._data), self._type or "message", self._id))
            self._data.clear()
        self._event_size = 0
        self._type = ""
