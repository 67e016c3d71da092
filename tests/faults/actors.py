"""Those who use the service while it breaks: they try again elsewhere, and note what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain, repeat
from typing import Any

import orjson

from tests.faults.schedule import How, Run, Stop, Watcher
from tests.faults.verdict import RunSeen, Watched
from tests.process.nodes import Node, Nodes
from tests.process.raw_client import Client, request
from tests.process.service import Answer

__all__ = ["PING_S", "Clock", "Users"]

PING_S = 0.5
"""What the nodes have as PING_INTERVAL_S."""

_SILENCE_S = 4.0  # of a stream: many pings
_ANSWER_S = 5.0  # for a request, until it is sent again to somebody else
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # before it is; the last one again and again
_TRY_AGAIN = (429, 503)


class Clock:
    """The time of the schedule, which begins when this is made."""

    def __init__(self) -> None:
        self._begun = asyncio.get_running_loop().time()

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._begun

    async def until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.now_s))


class Users:
    """Everybody who asks, watches and stops. They never give up: who calls them has to."""

    def __init__(self, nodes: Nodes, clock: Clock, common_sessions: list[str]) -> None:
        self._nodes = nodes
        self._clock = clock
        self._common_sessions = common_sessions

    async def ask(self, plan: Run, seen: RunSeen) -> None:
        """Do all that *plan* says, and note it in *seen*."""
        await self._clock.until(plan.at_s)
        async with asyncio.TaskGroup() as group:
            accepted = asyncio.Event()
            if plan.stop is not None:
                group.create_task(self._stop(plan.stop, plan, seen, accepted))
            opened = await self._start(plan, seen)
            accepted.set()
            if not seen.accepted:
                return
            if plan.deleted_after_s is not None:
                group.create_task(self._delete(plan.deleted_after_s, plan.seed, seen))
            if plan.kept_after_s is not None:
                group.create_task(self._keep(plan.kept_after_s, plan.seed, seen))
            if plan.how is not How.DETACHED:
                if opened is not None:
                    group.create_task(self._watch(plan.watchers[0], seen, opened))
                return
            if opened is not None:
                group.create_task(self._watch(Watcher(0, (), None, plan.seed), seen, opened))
            for watcher in plan.watchers:
                group.create_task(self._watch(watcher, seen))

    # Starting

    async def _start(self, plan: Run, seen: RunSeen) -> Client | None:
        """Send the request until it is answered; return its stream if that is the answer."""
        data = await self._pane(plan, seen) if plan.how is How.PANE else self._request(plan, seen)
        for node, pause_s in zip(self._nodes.at_random(plan.seed), _pauses(), strict=False):
            client = await _sent(node, data)
            seen.unanswered += client is None
            if client is not None and self._understood(client, seen):
                return client if client.status == 200 else None
            await asyncio.sleep(pause_s)
        raise AssertionError  # nodes are handed out for ever

    def _request(self, plan: Run, seen: RunSeen) -> bytes:
        body: dict[str, Any] = {"message": seen.prompt, "run_id": seen.run_id, "if_busy": plan.if_busy}
        body["compare_mode"] = plan.how is How.DIRECT
        if plan.session is not None:
            body["session_id"] = self._common_sessions[plan.session]
        accept = "application/json" if plan.as_json else "text/event-stream"
        return request("POST", "/api/chat_stream", body, Accept=accept)

    async def _pane(self, plan: Run, seen: RunSeen) -> bytes:
        """Make a compare, of which one pane will be streamed; return the request for that."""
        made = await self.call(plan.seed, "POST", "/api/compare", {"message": seen.prompt, "models": ["m", "n"]})
        pane = made.json["panes"][plan.seed % 2]
        seen.session_id, seen.pane = pane["session_id"], pane["stream"]
        return request("GET", pane["stream"], Accept="text/event-stream")

    @staticmethod
    def _understood(client: Client, seen: RunSeen) -> bool:
        """Whether this was the answer; otherwise the request must be sent again."""
        if client.status in _TRY_AGAIN:
            client.close()
            return False
        if client.status == 200:
            seen.accepted, seen.session_id, seen.run_id = True, client.session_id, client.run_id
            return True
        if client.status == 204:  # an attempt without an answer has begun this pane, and ended it
            seen.accepted = True
            client.close()
            return True
        answer = _json(client)
        if client.status == 202:
            seen.accepted, seen.session_id = True, answer["session_id"]
        else:
            seen.refusal = f"{client.status} {answer['error']['code']}"
        return True

    # Watching

    async def _watch(self, plan: Watcher, seen: RunSeen, opened: Client | None = None) -> None:
        watched = Watched(seen.run_id)
        seen.watched.append(watched)
        await asyncio.sleep(plan.after_s)
        nodes = self._nodes.at_random(plan.seed)
        stays = [*plan.hops, plan.leaves_after]
        pauses = _pauses()
        while not (watched.over or watched.left):
            client = opened or await self.back(nodes, seen, watched)
            opened = None
            if client is None:
                await asyncio.sleep(next(pauses))
                continue
            pauses = _pauses()
            stayed = await _follow(client, watched, stays[0])
            if stayed and not watched.over:
                stays.pop(0)
                watched.left = not stays
            if seen.direct and not seen.kept:
                watched.left = not watched.over

    async def back(self, nodes: Iterator[Node], seen: RunSeen, watched: Watched) -> Client | None:
        """Come back to the run at another node; None if there is no stream, which *watched* may be told for good."""
        headers = {} if watched.last_event_id is None else {"Last_Event_ID": watched.last_event_id}
        path = f"/api/chat/resume/{seen.session_id}?run_id={seen.run_id}"
        client = await _sent(next(nodes), request("GET", path, **headers))
        if client is None or client.status == 200:
            return client
        if client.status == 204:
            watched.nothing_more()
        elif client.status == 404 and seen.deleted:
            watched.over = True
        elif client.status not in _TRY_AGAIN:
            watched.over = True
            watched.broken.append(f"came back and was answered {client.status} {bytes(client.body)!r}")
        client.close()
        return None

    async def replay(self, seen: RunSeen) -> None:
        """Note what somebody gets who comes when all is over."""
        seen.replay = Watched(seen.run_id)
        nodes, pauses = self._nodes.at_random(seen.run_id), _pauses()
        while not seen.replay.over:
            if (client := await self.back(nodes, seen, seen.replay)) is not None:
                await _follow(client, seen.replay, None)
            else:
                await asyncio.sleep(next(pauses))

    # Stopping, keeping and deleting

    async def _stop(self, plan: Stop, run: Run, seen: RunSeen, accepted: asyncio.Event) -> None:
        session_id = None if run.session is None else self._common_sessions[run.session]
        if plan.after_s >= 0 or session_id is None:
            await accepted.wait()
            await asyncio.sleep(max(0.0, plan.after_s))
            session_id = seen.session_id
        if not session_id:
            return
        headers = {"X_Odysseus_Run_Id": seen.run_id} if plan.by_run or plan.after_s < 0 else {}
        answer = await self.call(plan.seed, "POST", f"/api/chat/stop/{session_id}", **headers)
        if answer.json.get("stopped") and answer.json["run_id"] == seen.run_id:
            seen.receipts.append(answer.json)

    async def _keep(self, after_s: float, seed: int, seen: RunSeen) -> None:
        await asyncio.sleep(after_s)
        answer = await self.call(seed, "POST", f"{seen.pane}/keep")
        if not seen.deleted:
            assert answer.status == 200
            seen.kept, seen.run_id = True, answer.json["run_id"]

    async def _delete(self, after_s: float, seed: int, seen: RunSeen) -> None:
        await asyncio.sleep(after_s)
        seen.deleted = True
        answer = await self.call(seed, "DELETE", f"/api/sessions/{seen.session_id}")
        assert answer.status in (204, 404)  # an attempt without an answer may have done it

    async def call(self, seed: int | str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make one request, at one node after the other until it is answered."""
        for node, pause_s in zip(self._nodes.at_random(seed), _pauses(), strict=False):
            try:
                async with asyncio.timeout(_ANSWER_S):
                    answer = await node.service.call(method, path, body, **headers)
            except (ConnectionError, TimeoutError):
                pass
            else:
                if answer.status not in _TRY_AGAIN:
                    return answer
            await asyncio.sleep(pause_s)
        raise AssertionError  # nodes are handed out for ever


def _pauses() -> Iterator[float]:
    return chain(_PAUSES_S, repeat(_PAUSES_S[-1]))


async def _sent(node: Node, data: bytes) -> Client | None:
    """Send a request; return the client when the answer has begun, all of it if it is no stream."""
    client = None
    try:
        async with asyncio.timeout(_ANSWER_S):
            client = await node.service.connect()
            await client.send(data)
            if await client.read_head() != 200:
                await client.read_all()
            return client
    except (ConnectionError, TimeoutError):
        if client is not None:
            client.close()
        return None


def _json(client: Client) -> dict[str, Any]:
    client.close()
    body: dict[str, Any] = orjson.loads(client.body)
    return body


async def _follow(client: Client, watched: Watched, stay: int | None) -> bool:
    """Take the frames of *client* as they come, up to *stay* of them; whether it was that which ended it."""
    taken = 0
    async with _closed(client):
        async for frame in _frames(client):
            watched.take(frame)
            taken += 1
            if stay is not None and taken >= stay:
                return True
            if watched.over:
                return False
    return False


async def _frames(client: Client) -> AsyncIterator[bytes]:
    """Yield whole frames until the stream ends, breaks, or says nothing for too long."""
    at = 0
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                if not await client.read():
                    return
        except (ConnectionError, TimeoutError):
            return
        *whole, _ = bytes(client.body[at:]).split(b"\n\n")
        for frame in whole:
            at += len(frame) + 2
            if not frame.startswith(b":"):
                yield frame + b"\n\n"


@asynccontextmanager
async def _closed(client: Client) -> AsyncIterator[None]:
    try:
        yield
    finally:
        client.close()
        client.everyone.discard(client)
