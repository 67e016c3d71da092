"""`odysseus serve`: the service from its start to the end of its drain. See `workers` for several on one port."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
from collections.abc import Callable

from aiohttp import web

from odysseus.application import create_runner, drain, log_to_stderr
from odysseus.errors import SettingsError
from odysseus.greeting import greet
from odysseus.settings import Settings
from odysseus.web.routes import SERVICE

__all__ = ["run"]

_log = logging.getLogger(__name__)

_PORT_TROUBLE = (errno.EADDRINUSE, errno.EACCES)
_BACKLOG = 1024  # connections that wait to be accepted: the default of 128 delays a storm of reconnects by a second


def run(settings: Settings, *, worker: bool = False) -> None:
    """Serve until a signal. Raises `SettingsError`.

    A *worker* shares its port with others, writes a line to stdout when it is ready, and ends when its stdin does:
    whoever has started it is dead then.
    """
    log_to_stderr(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, worker=worker))


async def _serve(settings: Settings, *, worker: bool) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal cuts the drain's grace short, but no save.

    Raises `SettingsError` if the service can't start.
    """
    runner = await create_runner(settings)
    try:
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG, reuse_port=worker or None)
            await site.start()
        except OSError as error:
            name = "ODYSSEUS_PORT" if error.errno in _PORT_TROUBLE else "ODYSSEUS_HOST"
            address = f"{settings.host}:{settings.port}"
            raise SettingsError(name, f"can't listen on {address}: {error.strerror}") from error
        stopped = _signalled(runner.app, worker=worker)
        if worker:
            print("ready", flush=True)
        else:
            greet(*runner.addresses[0][:2])
        await stopped.wait()
        if count := runner.app[SERVICE].runs.live_count:
            _log.info("going down: %d runs may go on for %g s; a second signal ends them now", count, settings.drain_s)
        if runner.app[SERVICE].elsewhere.exists:
            await site.stop()  # whoever reconnects finds another node
            if runner.server is not None:
                runner.server.pre_shutdown()  # a proxy's idle connections, too: what it sent by them would be refused
        # Else the listener is still open: whoever watches a run that may go on can reconnect to it, and stop it.
        await drain(runner.app)
    finally:
        await runner.cleanup()
        _ignore_signals()


def _signalled(app: web.Application, *, worker: bool) -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopped.is_set():
            app[SERVICE].runs.hurry()
        stopped.set()

    def on_orphaned() -> None:
        loop.remove_reader(sys.stdin.fileno())
        stopped.set()
        app[SERVICE].runs.hurry()  # what is started in our place needs the data folder

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if worker:
        loop.add_reader(sys.stdin.fileno(), on_orphaned)
    return stopped


def _ignore_signals() -> None:
    """All is saved: one more would end the process a moment earlier, and spoil its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
