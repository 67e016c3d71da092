"""The logs of the runs as Redis Streams, and the nodes' inboxes: keys, and the rules between writers.

See `entries` for what a log's are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from odysseus.cluster.connections import AnyRedis, close
from odysseus.cluster.entries import START, Entry, Place, log_entry, sizes_of

__all__ = ["ENDED", "TAKEN", "Streams", "Write", "inbox_of", "log_of"]

# All keys share a hash slot: only so does a Redis Cluster take one reading command over many of them.
_LOG = "{odysseus}:log:%s"
_INBOX = "{odysseus}:node:%s"
_NOTHING = "{odysseus}:nothing"
_UNBORN = "{odysseus}:unborn:%s:%s"

_INBOX_ENTRIES = 10_000
_INBOX_S = 3600
_UNBORN_S = 60
_AT_ONCE = 100  # entries of one stream in one answer, each up to about 256 KB


class Write(NamedTuple):
    """What is to be added to a log, and how many frames its writer believes to be there."""

    log_id: str
    after: int
    frames: Sequence[bytes]
    ended: bool
    keep_s: int


# Returns how many frames the log has now; -1 when it has the owner's end, -2 when it is somebody else's by now.
_APPEND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local have = 0
if last[1] then
  local place, count = string.match(last[1][1], '^(%d+)-(%d+)$')
  if place ~= '0' then return place == '1' and -1 or -2 end
  have = tonumber(count)
end
if have == tonumber(ARGV[1]) then
  if ARGV[2] ~= ARGV[1] then
    redis.call('XADD', KEYS[1], '0-' .. ARGV[2], 'n', ARGV[3], 'f', ARGV[4])
    have = tonumber(ARGV[2])
  end
  if ARGV[5] == '1' then
    redis.call('XADD', KEYS[1], '1-' .. have, 'n', '')
    have = -1
  end
  redis.call('EXPIRE', KEYS[1], ARGV[6])
end
return have
"""
_APPEND_SHA = sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()

ENDED = -1
"""Answers `append`: the log has its owner's end."""
TAKEN = -2
"""Answers `append`: another node has ended the run, or is about to."""


class Streams:
    """Every verb raises one of `UNREACHABLE`."""

    def __init__(self, client: AnyRedis, reading: AnyRedis) -> None:
        """*reading* has no time limit of its own; nobody else waits for its connection."""
        self._client = client
        self._reading = reading

    async def close(self) -> None:
        await close(self._client)
        await close(self._reading)

    async def ping(self) -> None:
        """Ask the server that has our keys: without it, others of a Redis Cluster still answer a PING."""
        await self._client.get(_NOTHING)

    # Logs

    async def append(self, writes: Sequence[Write]) -> Sequence[int]:
        """Add to the logs, each only if it has as many frames as its writer believes.

        Returns for each how many it has now: fewer than it should if Redis has lost some. `ENDED`: it has its end;
        `TAKEN`: another node has ended the run.
        """
        answers = await self._run_all(writes)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            await self._client.script_load(_APPEND)
            answers = await self._run_all(writes)  # what was done already changes nothing
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def _run_all(self, writes: Sequence[Write]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for write in writes:
            sizes = sizes_of(write.frames)
            pipeline.execute_command(  # queued here, awaited below; a Redis Cluster's pipeline has no `evalsha`
                "EVALSHA", _APPEND_SHA, 1, log_of(write.log_id), write.after, write.after + len(write.frames), sizes,
                b"".join(write.frames), int(write.ended), write.keep_s,
            )  # fmt: skip
        return await pipeline.execute(raise_on_error=False)

    async def history(self, log_id: str, after: str = START) -> AsyncIterator[Entry]:
        """Yield what the log has after entry *after*, oldest first."""
        while True:
            found: Any = await self._client.xrange(log_of(log_id), f"({after}", "+", count=_AT_ONCE)
            for raw in found:
                entry = log_entry(*raw)
                after = entry.id
                yield entry
            if len(found) < _AT_ONCE:
                return

    async def fence(self, log_id: str, keep_s: int) -> None:
        """Let no frame into the log any more: its run is about to be ended by another node than its own."""
        await self._append_place(log_id, f"{Place.FENCE:d}-0", (), keep_s)

    async def end_lost(self, log_id: str, total: int, frames: Sequence[bytes], keep_s: int) -> None:
        """Append the end of a run whose node was lost, after *total* frames; without *frames* the log lacks some of its
        answer."""
        await self._append_place(log_id, f"{Place.END_OF_LOST:d}-{total}", frames, keep_s)

    async def _append_place(self, log_id: str, entry_id: str, frames: Sequence[bytes], keep_s: int) -> None:
        key = log_of(log_id)
        pipeline = self._client.pipeline(transaction=False)
        sizes = sizes_of(frames)
        pipeline.xadd(key, {"n": sizes, "f": b"".join(frames)}, id=entry_id)
        pipeline.expire(key, keep_s)
        added, _ = await pipeline.execute(raise_on_error=False)
        if isinstance(added, BaseException) and "equal or smaller" not in str(added):  # that is: it stands there
            raise added

    # Stops of runs that haven't arrived

    async def stop_unborn(self, owner: str, run_id: str) -> None:
        """Remember for a minute that it must not start."""
        await self._client.set(_UNBORN % (owner, run_id), b"", ex=_UNBORN_S)

    async def is_stopped_unborn(self, owner: str, run_id: str) -> bool:
        return await self._client.get(_UNBORN % (owner, run_id)) is not None

    # Reading

    async def read(self, cursors: Mapping[str, str], block_ms: int) -> Sequence[tuple[str, Sequence[tuple[Any, Any]]]]:
        """Return what stands after each key's cursor; wait up to *block_ms* for something. Cancelling loses nothing."""
        places: Any = cursors
        found: Any = await self._reading.xread(places, count=_AT_ONCE, block=block_ms)
        return [(key.decode(), entries) for key, entries in found or ()]

    # Inboxes

    async def send(self, node: str, letter: bytes) -> None:
        """Put *letter* into *node*'s inbox; it is kept for an hour."""
        key = inbox_of(node)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.xadd(key, {"l": letter}, maxlen=_INBOX_ENTRIES, approximate=True)
        pipeline.expire(key, _INBOX_S)
        await pipeline.execute()

    async def drop_inbox(self, node: str) -> None:
        await self._client.delete(inbox_of(node))


def log_of(log_id: str) -> str:
    return _LOG % log_id


def inbox_of(node: str) -> str:
    return _INBOX % node
