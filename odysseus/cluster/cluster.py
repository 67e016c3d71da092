"""The verbs of `runs` over several nodes: start, follow, stop, and what an owner must be asked itself.

A run lives on one node, its owner. The store says which, by the answer that it makes; Redis carries its log to whoever
follows it elsewhere, and letters to its owner. What is certain doesn't depend on Redis: whose a run is, that it is
saved once, and that a stop is kept until it is obeyed, stand in the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.figures import Figures
from odysseus.cluster.followed import Followed
from odysseus.cluster.following import Following
from odysseus.cluster.lost import Lost
from odysseus.cluster.membership import Beat, Membership, Register
from odysseus.cluster.mirror import Mirror
from odysseus.cluster.post import Handler, Post
from odysseus.cluster.streams import Streams
from odysseus.errors import LogUnreachable, NodeUnreachable
from odysseus.feed import Feed
from odysseus.messages import Final, Message
from odysseus.runs import Runs
from odysseus.states import Status, StopReason
from odysseus.tasks import Tasks

__all__ = ["Cluster", "Places"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0  # between looks at the store, where no log tells of an end
_TELL_WATCHED_S = 0.5  # for so long, what changes is told together
_CANCELLED_S = 1.0
_FLUSH_S = 5.0  # what the logs get at the end, before the process goes


class Places(Register, Protocol):
    """See `odysseus.store.nodes.Nodes`."""

    async def owners(self, run_ids: Any) -> Mapping[str, str | None]: ...
    async def ask_stop(self, run_id: str, reason: StopReason) -> None: ...
    async def stop_of(self, run_id: str) -> StopReason | None: ...


class Cluster:
    def __init__(
        self,
        runs: Runs[bytes],
        streams: Streams,
        places: Places,
        answer_of: Callable[[str], Awaitable[Message | None]],
        save: Callable[[Final], Awaitable[bool]],
        tasks: Tasks,
        *,
        on_joined: Callable[[str], None],
        on_ended: Callable[[Message, Final], None],
        lease_s: float,
        live_s: float,
        grace_s: float,
        needs_redis: bool,
    ) -> None:
        """*answer_of* returns the answer of a run id, *save* is the store's compare-and-set. *on_joined* is told under
        which name this node writes from now on, *on_ended* of each answer of a dead node that was ended here.

        A silent node is dead after *lease_s*. A log is kept for *live_s* while its run says nothing, and for *grace_s*
        after its end. *needs_redis*: start nothing without it.
        """
        self._runs = runs
        self._streams = streams
        self._places = places
        self._answer_of = answer_of
        self._tasks = tasks
        self._needs_redis = needs_redis
        self._handlers: dict[str, Handler] = {
            "stop": self._stop_here,
            "watched": self._watched_elsewhere,
            "forget": self._forget_here,
        }
        self._post = Post(streams, tasks, self._handlers)
        self.mirror = Mirror(streams, self._disown, live_s=live_s, grace_s=grace_s)
        self.following = Following(streams, tasks, places.owners, self._post.deliver, self._note_watched)
        self._lost = Lost(streams, answer_of, save, on_ended, grace_s=grace_s)
        self._on_joined = on_joined
        self._membership = Membership(
            places,
            lease_s,
            on_joined=self._joined,
            on_expelled=self._disown_all,
            on_lost=self.end_lost,
            on_beat=self._beaten,
        )
        self._working: list[asyncio.Task[None]] = []
        self._watched: set[Followed] = set()  # whose number of subscribers has changed, and is about to be told

    @property
    def node(self) -> str:
        return self._membership.node

    def figures(self) -> Figures:
        errors = {"write": self.mirror.errors, "read": self.following.errors, "letter": self._post.lost}
        nodes = 1 + len(self._membership.others)
        return Figures(self.following.reached, nodes, self.mirror.behind, len(self.following), errors)

    def serve(self, **handlers: Handler) -> None:
        """Answer other nodes' letters of these verbs, too: see `ask`."""
        self._handlers.update(handlers)

    # Coming and going

    async def join(self) -> None:
        """Raises `StoreError`."""
        await self._membership.join()
        mirror, following = self.mirror, self.following
        for work in (mirror.work, mirror.look, following.read, following.look, self._membership.keep):
            self._working.append(self._tasks.spawn(_keep_at(work), apart=True))

    def hand_over(self) -> None:
        """Let all subscribers go: they come back elsewhere."""
        self.following.release_all()
        for run in self._runs.all():
            if run.detached:
                run.release()

    async def leave(self) -> None:
        """Give the logs what they lack, and the place up. The runs have ended."""
        if not await self.mirror.drain(_FLUSH_S):
            _log.warning("%d logs in Redis lack their ends", self.mirror.behind)
        working = set(self._working)
        while working:  # redis-py's `wait_for` loses a cancel now and then, on Python 3.11
            for work in working:
                work.cancel()
            _, working = await asyncio.wait(working, timeout=_CANCELLED_S)
        await self._membership.leave()
        try:
            await self._streams.drop_inbox(self.node)
        except UNREACHABLE:
            pass  # it expires

    def _joined(self, node: str) -> None:
        self._post.node = node
        self._on_joined(node)
        self.following.listen(node)
        for followed in self.following.all():
            self._note_watched(followed)  # the owners forget who watches under a name that is gone

    # Runs of this node

    async def check_logs(self) -> None:
        """Raises `LogUnreachable` if Redis is away, and runs are not to be started without it."""
        if self._needs_redis:
            try:
                await self._streams.ping()
            except UNREACHABLE as error:
                raise LogUnreachable from error

    async def stop_unborn(self, owner: str, run_id: str) -> None:
        """Remember for a minute, on all nodes, that the owner's *run_id*, which nobody knows, must not start."""
        try:
            await self._streams.stop_unborn(owner, run_id)
        except UNREACHABLE as error:
            _log.warning("only this node knows that run %s is stopped before its start: %r", run_id, error)

    async def is_stopped_unborn(self, owner: str, run_id: str) -> bool:
        if self.mirror.failing:
            return False  # rather than let every start wait for an answer that won't come
        try:
            return await self._streams.is_stopped_unborn(owner, run_id)
        except UNREACHABLE:
            return False

    def publish(self, run: Feed[bytes], log_id: str) -> None:
        """Let *run* be followed on all nodes."""
        self.mirror.add(run, log_id)

    def _disown_all(self) -> None:
        for run in self._runs.all():
            if run.accepted.is_set() and not run.ended.is_set():  # others aren't stored yet, or will notice themselves
                self._disown(run)

    def _disown(self, feed: Feed[bytes]) -> None:
        """Stop a run that another node has ended: nothing that comes of it counts any more."""
        run = self._runs.get(feed.id)
        if run is feed and run is not None:
            _log.warning("run %s was ended by another node; what it goes on with here is dropped", run.id)
            self._runs.disown(run)

    # Runs of other nodes

    def is_elsewhere(self, message: Message) -> bool:
        """Whether another node runs what makes *message*."""
        return message.status is Status.STREAMING and message.node != self.node

    async def follow(self, message: Message) -> Followed | None:
        """Return the run that makes, or made, *message*, as far as it has come; None if its log is gone."""
        return await self.following.follow(message)

    async def stop(self, run_id: str, node: str | None, reason: StopReason) -> None:
        """Ask the owner to stop the run. Doesn't wait for it: see `ended`. Raises `StoreError`."""
        await self._places.ask_stop(run_id, reason)
        if node is not None:
            self._post.tell(node, "stop", run_id=run_id, reason=reason)

    async def obey(self, run_id: str) -> None:
        """Stop the run, which is ours, if that is written down. Raises `StoreError`."""
        if (reason := await self._places.stop_of(run_id)) is not None:
            await self._stop_here(run_id, reason)

    async def ended(self, run_id: str, limit_s: float | None = None) -> Message | None:
        """Wait until the run has ended, wherever; return its answer, None if that is deleted.

        Raises `NodeUnreachable` after *limit_s*, and `StoreError`.
        """
        try:
            async with asyncio.timeout(limit_s):
                while (message := await self._answer_of(run_id)) is not None and message.status is Status.STREAMING:
                    await self._end_or_look(message)
                return message
        except TimeoutError as error:
            raise NodeUnreachable("what you asked for is written down, and is done as soon as it does") from error

    async def _end_or_look(self, message: Message) -> None:
        run: Feed[bytes] | None = self._runs.get(message.run_id or "") or await self.follow(message)
        if run is None:
            await asyncio.sleep(_LOOK_S)
            return
        number = run.joined()
        try:
            async with asyncio.timeout(_LOOK_S):
                while not run.over:
                    await run.changed()
        except TimeoutError:
            pass
        finally:
            run.left(number)

    async def ask(self, message: Message, verb: str, lost: str, /, **values: object) -> Any:
        """Ask the owner of the run that makes *message*. Raises what it refuses with, and `NodeUnreachable`."""
        assert message.node is not None
        return await self._post.ask(message.node, verb, lost, run_id=message.run_id, **values)

    def forget_session(self, session_id: str) -> None:
        """Free what all nodes have of the session's runs: it has been deleted."""
        self.following.forget_session(session_id)
        for node in self._membership.others:
            self._post.tell(node, "forget", session_id=session_id)

    # What other nodes tell

    async def _stop_here(self, run_id: str, reason: str) -> None:
        if (run := self._runs.get(run_id)) is not None:
            self._runs.stop_run(run, StopReason(reason))

    def _beaten(self, beat: Beat) -> None:
        for run_id, reason in beat.stops.items():
            if (run := self._runs.get(run_id)) is not None:
                self._runs.stop_run(run, reason)
        for run in self._runs.all():
            for node in run.elsewhere.keys() - beat.others.keys():
                run.watched_elsewhere(node, 0)

    async def _forget_here(self, session_id: str) -> None:
        self._runs.forget_session(session_id)
        self.following.forget_session(session_id)

    async def _watched_elsewhere(self, run_id: str, node: str, subscribers: int) -> None:
        if (run := self._runs.get(run_id)) is not None:
            run.watched_elsewhere(node, subscribers)

    def _note_watched(self, followed: Followed) -> None:
        if not self._watched:
            asyncio.get_running_loop().call_later(_TELL_WATCHED_S, self._tell_watched)
        self._watched.add(followed)

    def _tell_watched(self) -> None:
        for followed in self._watched:
            if followed.message.node is not None and not followed.ended.is_set():
                values = {"run_id": followed.id, "node": self.node, "subscribers": followed.subscribers}
                self._post.tell(followed.message.node, "watched", **values)
        self._watched.clear()

    def end_lost(self, run_ids: Sequence[str]) -> None:
        """End these runs of a dead node, which the store says are ours now."""
        for run_id in run_ids:
            self._tasks.spawn(self._lost.end(run_id), apart=True)


async def _keep_at(work: Callable[[], Awaitable[None]]) -> None:
    """Do *work*, which never ends by itself: if it breaks, the node would be deaf, or dumb, without a sign of it."""
    while True:
        try:
            await work()
        except Exception:
            _log.exception("what keeps this node among the others broke, and begins again")
        await asyncio.sleep(_LOOK_S)
