"""What the simulated service stands in: a store, a spool, model servers and clients that misbehave as drawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random

import orjson

from odysseus.answer import with_stopped_results
from odysseus.errors import StoreError, UpstreamError
from odysseus.events import Part, UsageCount
from odysseus.messages import Admit, Final, Message, Mode, Role, Turn
from odysseus.messages import now as today
from odysseus.run import Run
from odysseus.states import Status, StopReason
from odysseus.tasks import Tasks
from odysseus.upstream import Ask, Finish, Piece, Reasoning, Take, Text, Tokens
from odysseus.upstream.chat_completions import request_body
from tests.message_rules import BrokenRule, check_request
from tests.simulation.schedule import TICK, End, Outage, Request

__all__ = ["Client", "Killed", "Model", "Row", "Spool", "Store", "Weather", "World", "steps", "time"]


_CHECKPOINT_S = 5.0  # as the real store's
_TOKENS = Tokens(UsageCount(prompt_tokens=1, completion_tokens=2, total_tokens=3))


class Killed(BaseException):
    """The process is dead: whatever it still asks of the store or the spool never happens."""


class World:
    """Outlives the process. Whoever sees a promise broken says so here; `said` is the story, *tell* hears it live."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self.dead = False
        self.broken: list[str] = []
        self.said: list[str] = []
        self._tell = tell

    def say(self, what: str) -> None:
        if not self.dead:
            self.said.append(f"{time():9.4f} {what}")
            if self._tell is not None:
                self._tell(self.said[-1])

    def expect(self, promise: bool, otherwise: str) -> None:
        if not promise and not self.dead:
            self.broken.append(otherwise)
            self.say(f"BROKEN: {otherwise}")


def time() -> float:
    return asyncio.get_running_loop().time()


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Weather:
    """What one disk goes through; every call to it takes a moment of *rng*'s."""

    def __init__(self, world: World, rng: Random, outages: Sequence[Outage]) -> None:
        self._world, self._rng, self.outages = world, rng, outages

    async def pass_over(self, error: Exception, *, writes: bool = True) -> Exception | None:
        """Let one call through; return what it must raise when it has done its work, for a deaf disk."""
        if self._world.dead:
            raise Killed
        kind, until = next(((kind, until) for since, until, kind in self.outages if since <= time() < until), ("", 0.0))
        pause = self._rng.choice((0, 0, 1, 1, 2))
        if kind == "slow":
            pause += 16 + self._rng.randrange(48)
        elif kind == "hung":
            pause += int((until - time()) / TICK)
        await asyncio.sleep(pause * TICK)
        if kind == "down" or (kind == "full" and writes):
            raise error
        if self._world.dead:
            raise Killed
        return error if kind == "deaf" else None


@dataclass(slots=True)
class Row:
    """An answer's message."""

    turn: Turn
    status: Status = Status.STREAMING
    stop_reason: StopReason | None = None
    content: str = ""
    parts: list[Part] = field(default_factory=list)
    events: int | None = None
    finishes: int = 0
    """How often its status changed."""
    troubled: bool = False
    """A checkpoint of it failed, or took more than two ticks."""
    checkpoint_since: float | None = None
    """When the checkpoint began that is being written."""


class Store:
    """Obeys `Transcript`, and ends messages by compare-and-set."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world, self.weather = world, weather
        self.rows: dict[str, Row] = {}
        self.checkpoints = Tasks()
        self.on_finish: Callable[[str], None] = lambda message_id: None
        """Called with an answer that is about to be saved."""
        self.on_pull: Callable[[str], None] = lambda message_id: None
        """Called with an answer that is about to be asked for."""

    async def begin(self, turn: Turn, admit: Admit | None = None) -> None:
        if (error := await self.weather.pass_over(StoreError("begin"))) is not None:
            raise error
        self.world.expect(turn.message_id not in self.rows, f"{turn.run_id} was begun twice")
        self.rows[turn.message_id] = Row(turn)
        self.world.say(f"{turn.run_id} is stored")

    async def history(self, turn: Turn) -> Sequence[Message]:
        self.on_pull(turn.message_id)
        await self.weather.pass_over(StoreError("history"), writes=False)
        history = []
        for row in self.rows.values():
            if row.turn.session_id == turn.session_id:
                history.append(_message(row, Role.USER))
                if row.turn is turn:
                    break
                history.append(_message(row, Role.ASSISTANT))
        return history

    def checkpoint(self, message_id: str, content: str, reasoning: str, parts: list[Part]) -> asyncio.Future[None]:
        return self.checkpoints.spawn(self._checkpoint(message_id, content, parts))

    async def _checkpoint(self, message_id: str, content: str, parts: list[Part]) -> None:
        row, began = self.rows[message_id], time()
        row.checkpoint_since = began
        try:
            async with asyncio.timeout(_CHECKPOINT_S):
                error = await self.weather.pass_over(StoreError("checkpoint"))
            if self.streams(row):
                row.content, row.parts = content, parts
            if error is not None:
                raise error
        except Exception:
            row.troubled = True
            raise
        row.checkpoint_since = None
        row.troubled |= time() - began > 2 * TICK

    async def finish(self, final: Final) -> bool:
        self.on_finish(final.message_id)
        error = await self.weather.pass_over(StoreError("finish"))
        row = self.rows[final.message_id]
        if changes := self.streams(row):
            row.status, row.stop_reason, row.events = final.status, final.stop_reason, final.events
            row.content, row.parts = final.content, final.parts
            row.finishes += 1
            self.world.say(f"{row.turn.run_id} is saved as {final.status}")
        if error is not None:
            raise error
        return changes

    def streams(self, row: Row) -> bool:
        """The condition under which an answer may be written."""
        return row.status is Status.STREAMING

    async def interrupt_streaming(self, *, but: Collection[str] = ()) -> int:
        error = await self.weather.pass_over(StoreError("interrupt_streaming"))
        lost = [row for key, row in self.rows.items() if row.status is Status.STREAMING and key not in but]
        for row in lost:
            row.status, row.stop_reason = Status.INTERRUPTED, StopReason.NODE_LOST
            row.parts = with_stopped_results(row.parts)
            row.finishes += 1
            self.world.say(f"{row.turn.run_id} is lost")
        if error is not None:
            raise error
        return len(lost)


def _message(row: Row, role: Role) -> Message:
    users = role is Role.USER
    return Message(
        id=f"{row.turn.message_id}-{role}",
        session_id=row.turn.session_id,
        role=role,
        content=row.turn.text if users else row.content,
        reasoning="",
        parts=[] if users else row.parts,
        status=Status.DONE if users else row.status,
        created_at=today(),
    )


class Spool:
    def __init__(self, world: World, weather: Weather) -> None:
        self.world, self.weather = world, weather
        self.held: dict[str, Final] = {}

    async def put(self, final: Final) -> None:
        error = await self.weather.pass_over(OSError("put"))
        self.held[final.message_id] = final
        self.world.say(f"{final.message_id} is spooled")
        if error is not None:
            raise error

    async def all(self) -> list[Final]:
        found = list(self.held.values())
        await self.weather.pass_over(OSError("all"), writes=False)  # what it read may be old when it is handed over
        return found

    async def remove(self, message_id: str) -> None:
        await self.weather.pass_over(OSError("remove"))
        self.held.pop(message_id, None)


class Model:
    """A strict model server that plays one answer; an agent's in rounds, each of them asked for."""

    def __init__(self, world: World, request: Request) -> None:
        self.world, self.request = world, request
        self.asked = 0
        self.open = 0
        self.opened_at: float | None = None
        """When it was asked first."""
        self.closed_at: float | None = None
        """When it was closed last."""

    async def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[Piece], None]:
        request, name = self.request, self.request.turn.run_id
        played = request.rounds[self.asked] if self.asked < len(request.rounds) else None
        self.world.expect(not self.open, f"{name} was asked twice at once")
        self.world.expect(self.asked <= len(request.rounds), f"{name} was asked too often")
        self._check(ask)
        self.world.say(f"{name} is asked")
        self.opened_at = time() if self.opened_at is None else self.opened_at
        self.asked += 1
        self.open += 1
        try:
            for silence, pieces in request.reads if played is None else played.reads:
                await asyncio.sleep(silence * TICK)
                offered = take if request.offers and all(isinstance(it, Text | Reasoning) for it in pieces) else None
                if offered is not None and offered(pieces):
                    await asyncio.sleep(0)  # it is taken while the generator waits, and that goes on
                else:
                    yield pieces
            if played is not None:
                yield [*played.pieces, _TOKENS]
                return
            if request.end is End.FAILS:
                raise UpstreamError("upstream_protocol", "the connection broke")
            if request.end is End.BUG:
                raise ValueError("a bug")
            if request.end is End.HANGS:
                await asyncio.Event().wait()
            yield [_TOKENS, Finish("stop")]
        finally:
            try:
                await steps(request.leave_steps)
            finally:
                self.open -= 1
                self.closed_at = time()
                self.world.say(f"{name} is closed")

    def _check(self, ask: Ask) -> None:
        turn = self.request.turn
        self.world.expect(bool(ask.tools) is (turn.mode is Mode.AGENT), f"{turn.run_id}: its tools are {ask.tools}")
        try:
            check_request(orjson.loads(request_body(ask)))
        except BrokenRule as broken:
            self.world.expect(False, f"{turn.run_id}: its model refuses what it is asked: {broken}")


class Client:
    """The sink of a direct run. *on_frame* sees each frame when it comes."""

    def __init__(self, world: World, request: Request, on_frame: Callable[[bytes], None]) -> None:
        self.world, self.request, self.on_frame = world, request, on_frame
        self.calls = 0
        self.opened = False
        self.broken = False
        self.got: list[bytes] = []

    async def open(self, run: Run[bytes]) -> None:
        await self._call()
        self.opened = True

    async def write(self, frame: bytes) -> None:
        self.world.expect(self.opened, "a client was written to before it was opened")
        self.got.append(frame)
        self.on_frame(frame)
        await self._call()

    @property
    def free(self) -> bool:
        return self.opened and not self.request.pause and not self.broken and self.calls != self.request.breaks_at

    def write_nowait(self, frame: bytes) -> None:
        free = self.opened and not self.broken and not self.request.pause
        self.world.expect(free, "a client was sent to while it wasn't free")
        self.calls += 1
        self.got.append(frame)
        self.on_frame(frame)

    async def _call(self) -> None:
        self.world.expect(not self.broken, "a client was written to after it broke")
        self.broken = self.calls == self.request.breaks_at
        if self.broken:
            raise ConnectionResetError
        self.calls += 1
        await asyncio.sleep(self.request.pause * TICK)
