"""`odysseus chat`: one run, followed from a terminal to its end over however many connections that takes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import aiohttp
import orjson
from aiohttp.http_exceptions import HttpProcessingError

from odysseus.messages import new_id
from odysseus.sse import Decoder, Event
from odysseus.terminal import OutputClosed, Screen
from odysseus.transcript import Answered, Approval, Ending, Show, Transcript

__all__ = ["Asked", "Exit", "chat"]

_BREAKS = (aiohttp.ClientError, HttpProcessingError, OSError)  # the second one raw, from aiohttp's parser in Python
_NO_CONNECTION = (aiohttp.ClientConnectorError, aiohttp.ClientSSLError, aiohttp.ConnectionTimeoutError)
_CONNECT_S = 10.0
_SILENCE_S = 60.0  # a stream is never silent for so long: the service sends a comment every 10 s
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_GIVE_UP_S = 120.0  # a service that is restarted, or moved, is back by then
_MAX_EVENT_BYTES = 256 * 1024 * 1024  # a snapshot holds a whole answer, and `MAX_LOG_BYTES` of it
_MAX_PROBLEM_BYTES = 64 * 1024


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    REFUSED = 2
    STOPPED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    url: str
    """The service's, without a slash at its end."""
    message: str
    session_id: str | None = None
    model: str | None = None
    agent: bool = False
    system: str | None = None
    token: str | None = None


class _Refused(Exception):
    """The service won't do it; the text is its reason."""


class _Unreachable(Exception):
    """The service can't be reached, or not for long enough that it's time to say so."""


class _Again(Exception):
    """An answer that says: not now. *after_s* is the pause it asks for."""

    def __init__(self, problem: str, after_s: float) -> None:
        super().__init__(problem)
        self.after_s = after_s


async def chat(asked: Asked, screen: Screen) -> Exit:
    """Start the run and follow it. The first SIGINT stops it, the second one leaves at once."""
    headers = {} if asked.token is None else {"Authorization": f"Bearer {asked.token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
        conversation = _Conversation(asked, screen, http)
        following = asyncio.create_task(conversation.follow())

        def on_interrupt() -> None:
            if conversation.stopping:
                following.cancel()
            else:
                conversation.stop()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, on_interrupt)
        try:
            await asyncio.wait({following})
            return _told(conversation, following, screen)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            await conversation.close()


def _told(conversation: _Conversation, following: asyncio.Task[Ending], screen: Screen) -> Exit:
    """Say how it ended; return what that is for whoever called."""
    try:
        ending = following.result()
        screen.finish()
    except asyncio.CancelledError:
        screen.note(f"left {conversation.name}, which may still be running")
        return Exit.STOPPED
    except OutputClosed as error:
        screen.problem(f"stdout: {error}; left {conversation.name}, which goes on")
        return Exit.FAILED
    except _Refused as error:
        screen.problem(str(error))
        return Exit.REFUSED
    except _Unreachable as error:
        screen.problem(str(error))
        return Exit.FAILED
    screen.note(ending.summary(conversation.session_id or "unknown"))
    if conversation.stopping or ending.status == "stopped":
        return Exit.STOPPED
    return Exit.DONE if ending.status == "done" else Exit.FAILED


class _Conversation:
    """One message and its run, whose id is chosen here: a request sent again joins the run instead of paying twice."""

    def __init__(self, asked: Asked, screen: Screen, http: aiohttp.ClientSession) -> None:
        self.stopping = False
        self.session_id = asked.session_id
        self._asked, self._screen, self._http = asked, screen, http
        self._transcript = Transcript(new_id("run"))
        self._accepted = asyncio.Event()
        """Set when the service has the run; from then on it is resumed, and can be stopped."""
        self._reached = False
        """Whether there has been a connection, on which the request may have left."""
        self._pauses = _Pauses()
        """Of the attempts since the stream was last seen to work."""
        self._approving: dict[str, asyncio.Task[None]] = {}
        """By the call's id."""
        self._helpers: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        known = "" if self.session_id is None else f" of session {self.session_id}"
        return f"run {self._transcript.run_id}{known}"

    async def close(self) -> None:
        for helper in (helpers := set(self._helpers)):
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)

    # Following

    async def follow(self) -> Ending:
        """Show the run until it has ended. Raises `_Refused`, `_Unreachable` and `OutputClosed`."""
        while self._transcript.ending is None:
            after_s, problem = 0.0, "the stream ended before the answer"
            try:
                await self._stream()
            except _NO_CONNECTION as error:
                if not self._reached:
                    raise _Unreachable(f"{_reason(error)}; is the service running at {self._asked.url}?") from error
                problem = _reason(error)
            except _BREAKS as error:
                self._reached = True
                problem = _reason(error)
            except _Again as error:
                after_s, problem = error.after_s, str(error)
            except ValueError as error:  # no JSON, or no end of it
                raise _Refused(f"what {self._asked.url} sends can't be read: {error}") from error
            if self._transcript.ending is None:
                if self._pauses.count == 0:
                    self._screen.note(f"connection lost ({problem}); trying again")
                if not await self._pauses.wait(after_s):
                    raise _Unreachable(f"{problem}; gave up on {self.name}, which may still be running")
        return self._transcript.ending

    async def _stream(self) -> None:
        async with self._requested() as response:
            if response.status != 200:
                raise await self._refusal(response, again=self._reached)
            if response.content_type != "text/event-stream":
                raise _Refused(f"{self._asked.url} answers, but not as Odysseus does: {response.content_type}")
            self._reached = True
            self.session_id = response.headers.get("X-Odysseus-Session-Id", self.session_id)
            self._accepted.set()
            decoder = Decoder(_MAX_EVENT_BYTES)
            begun = False
            async for chunk in response.content.iter_any():
                events = decoder.feed(chunk)
                if events or begun:  # not at a connection's first comment, which one that is cut at once has, too
                    self._pauses = _Pauses()
                begun = True
                for event in events:
                    self._take(event)
                if self._transcript.ending is not None:
                    return  # whatever is in between may take its time to close the connection

    @asynccontextmanager
    async def _requested(self) -> AsyncIterator[aiohttp.ClientResponse]:
        """Start the run, or come back to it."""
        headers = {"Accept": "text/event-stream"}
        if not self._accepted.is_set():
            fields = {
                "message": self._asked.message,
                "run_id": self._transcript.run_id,
                "session_id": self._asked.session_id,
                "model": self._asked.model,
                "mode": "agent" if self._asked.agent else "chat",
                "system": self._asked.system,
            }
            body = {name: value for name, value in fields.items() if value is not None}
            request = self._http.post(
                f"{self._asked.url}/api/chat_stream", json=body, headers=headers, allow_redirects=False
            )
        else:
            if (seen := self._transcript.last_event_id) is not None:
                headers["Last-Event-ID"] = seen
            request = self._http.get(
                f"{self._asked.url}/api/chat/resume/{self.session_id}",
                params={"run_id": self._transcript.run_id},
                headers=headers,
                allow_redirects=False,
            )
        async with request as response:
            yield response

    def _take(self, event: Event) -> None:
        for output in self._transcript.take(event):
            match output:
                case Show():
                    self._screen.show(output)
                case Approval(call_id):
                    self._approving[call_id] = self._help(self._approve(output))
                case Answered(call_id) if call_id in self._approving:
                    self._approving.pop(call_id).cancel()

    # Beside it

    def stop(self) -> None:
        """Ask for the run's stop, as soon as there is something to stop; the run's own end is followed all the same."""
        self.stopping = True
        self._screen.note("stopping; Ctrl-C again leaves at once")
        self._help(self._stop())

    async def _stop(self) -> None:
        await self._accepted.wait()
        headers = {"X-Odysseus-Run-Id": self._transcript.run_id}
        await self._call(f"/api/chat/stop/{self.session_id}", None, headers)

    async def _approve(self, approval: Approval) -> None:
        path = f"/api/chat/approve/{self.session_id}"
        decision = await self._decision(approval.question) if self._screen.can_ask else None
        if decision is not None:
            await self._call(path, {"call_id": approval.call_id, "decision": decision}, {})
            return
        body = shlex.quote(json.dumps({"call_id": approval.call_id, "decision": "allow"}))
        self._screen.note(f"a tool waits for approval: {approval.question} If so (or with deny):")
        url = shlex.quote(f"{self._asked.url}{path}")
        self._screen.note(f"curl {url} -H 'Content-Type: application/json' -d {body}")

    async def _decision(self, question: str) -> str | None:
        while (line := await self._screen.ask(f"{question} [y/n]")) is not None:
            if line.lower() in ("y", "yes"):
                return "allow"
            if line.lower() in ("n", "no"):
                return "deny"
        return None

    def _help(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)
        return task

    async def _call(self, path: str, body: Any, headers: Mapping[str, str]) -> None:
        """POST, again while the service can't be reached; a refusal is told and is all that comes of it."""
        pauses = _Pauses()
        after_s: float | None = 0.0
        while after_s is not None and await pauses.wait(after_s, first_at_once=True):
            after_s = await self._called(path, body, headers)

    async def _called(self, path: str, body: Any, headers: Mapping[str, str]) -> float | None:
        """Return None when there is an answer, else how long to wait at least before asking again."""
        url = f"{self._asked.url}{path}"
        try:
            async with self._http.post(url, json=body, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response, again=True)
        except _BREAKS:
            return 0.0
        except _Again as error:
            return error.after_s
        except _Refused as error:
            self._screen.problem(str(error))
        return None

    async def _refusal(self, response: aiohttp.ClientResponse, *, again: bool) -> Exception:
        """Return what an answer that isn't a stream means; with *again*, what may pass is worth another try."""
        if response.status == 204:
            return _Refused(f"the service has nothing more of {self.name}")
        problem = _problem(response.status, await response.content.read(_MAX_PROBLEM_BYTES))
        if again and (response.status == 429 or response.status >= 500):
            header = response.headers.get("Retry-After", "")
            return _Again(problem, min(float(header), _LONGEST_PAUSE_S) if header.isdecimal() else 0.0)
        if response.status == 401:
            problem += "; --token-file names the file of a token"
        return _Refused(problem)


class _Pauses:
    """The pauses between attempts: longer and longer, and never the same for everybody who waits."""

    def __init__(self) -> None:
        self.count = 0
        self._give_up_at = asyncio.get_running_loop().time() + _GIVE_UP_S

    async def wait(self, at_least_s: float, *, first_at_once: bool = False) -> bool:
        """Wait; False, at once, when it has been tried for long enough."""
        if asyncio.get_running_loop().time() > self._give_up_at:
            return False
        pause_s = min(_FIRST_PAUSE_S * 2.0**self.count, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        if self.count or not first_at_once:
            await asyncio.sleep(max(pause_s, at_least_s))
        self.count += 1
        return True


def _problem(status: int, body: bytes) -> str:
    try:
        error = orjson.loads(body)["error"]
        field = f"{error['field']}: " if error.get("field") else ""
        return f"{field}{error['message']}"
    except (ValueError, KeyError, TypeError, AttributeError):  # not the service's own words
        return f"answered {status}"


def _reason(error: Exception) -> str:
    """Return why there is no connection, in words that hold no header, and so no token: some of aiohttp's do."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return type(error).__name__
