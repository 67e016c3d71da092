"""An event loop with a virtual clock: hours pass in milliseconds, and the same way each time.

It has no threads and no sockets. What waits for one of those would wait for ever, which is an error here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, NoReturn, TypeVar

__all__ = ["Leftover", "Stuck", "VirtualLoop", "now", "run_virtual"]

_T = TypeVar("_T")


class Stuck(AssertionError):
    """Tasks wait and nothing is scheduled that could wake them, or they go on past the limit of virtual time."""


class Leftover(AssertionError):
    """The main coroutine has returned and left a task behind, or an error that nobody looked at."""


class _Clock:
    """Stands where a loop has its selector: asked to sleep, it only moves the time forward."""

    def __init__(self, limit_s: float) -> None:
        self.now = 0.0
        self._limit_s = limit_s

    def select(self, timeout: float | None) -> None:
        if timeout is None:
            raise Stuck(_listed("nothing is scheduled at %.3f s, yet there wait", self.now))
        if self.now + timeout > self._limit_s:
            raise Stuck(_listed("%.3f s have passed and there still run", self.now))
        self.now += timeout


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` begins at 0. Errors that other loops only log are kept in `errors`."""

    def __init__(self, limit_s: float = 86_400) -> None:
        super().__init__()
        self._selector = _Clock(limit_s)
        self._clock_resolution = 1e-9  # of the real clock: differs between machines
        self.errors: list[dict[str, Any]] = []

    def time(self) -> float:
        return self._selector.now

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def run_in_executor(self, *_: object) -> NoReturn:
        raise RuntimeError("there are no threads in virtual time")

    def _process_events(self, event_list: None) -> None:
        """Nothing: `_Clock.select` never has any."""

    def _write_to_self(self) -> None:
        """Nothing: the loop never sleeps, so there is nothing to wake."""


def now() -> float:
    """Return the running loop's time in whole milliseconds, which sums of floats rarely are."""
    return round(asyncio.get_running_loop().time(), 3)


def run_virtual(main: Coroutine[Any, Any, _T], *, limit_s: float = 86_400, strict: bool = True) -> _T:
    """Run *main* on a loop of its own, to its end and until nothing of it is left.

    Tasks that outlive *main* are cancelled. With *strict* they, and errors nobody has looked at (of a callback, of a
    task that was never awaited), raise `Leftover`. Raises what *main* raises before that, and `Stuck`.
    """
    with asyncio.Runner(loop_factory=partial(VirtualLoop, limit_s)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        result = runner.run(main)
        left = _listed("left behind at %.3f s:", loop.time(), loop) if strict and asyncio.all_tasks(loop) else None
    if left is not None:
        raise Leftover(left)
    if strict and loop.errors:
        context = loop.errors[0]
        raise Leftover(context["message"]) from context.get("exception")
    return result


def _listed(headline: str, time: float, loop: VirtualLoop | None = None) -> str:
    return "\n  ".join((headline % time, *sorted(map(repr, asyncio.all_tasks(loop)))))
