"""`odysseus serve`: the service from its start to the end of its drain."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
from collections.abc import Callable

from aiohttp import web

import odysseus
from odysseus.application import create_runner, drain, log_to_stderr
from odysseus.errors import SettingsError
from odysseus.settings import Settings
from odysseus.web.routes import SERVICE

__all__ = ["run", "serve"]

_log = logging.getLogger(__name__)

_PORT_TROUBLE = (errno.EADDRINUSE, errno.EACCES)
_BACKLOG = 1024  # connections that wait to be accepted: the default of 128 delays a storm of reconnects by a second


def run() -> None:
    """Serve with the settings of the environment. Raises `SettingsError`."""
    settings = Settings.load()
    log_to_stderr(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal cuts the drain's grace short, but no save.

    Raises `SettingsError` if the service can't start.
    """
    runner = await create_runner(settings)
    try:
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG)
            await site.start()
        except OSError as error:
            name = "ODYSSEUS_PORT" if error.errno in _PORT_TROUBLE else "ODYSSEUS_HOST"
            address = f"{settings.host}:{settings.port}"
            raise SettingsError(name, f"can't listen on {address}: {error.strerror}") from error
        stopped = _signalled(runner.app)
        _greet(*runner.addresses[0][:2])
        await stopped.wait()
        if count := runner.app[SERVICE].runs.live_count:
            _log.info("going down: %d runs may go on for %g s; a second signal ends them now", count, settings.drain_s)
        if runner.app[SERVICE].elsewhere.exists:
            await site.stop()  # whoever reconnects finds another node
        # Else the listener is still open: whoever watches a run that may go on can reconnect to it, and stop it.
        await drain(runner.app)
    finally:
        await runner.cleanup()


def _signalled(app: web.Application) -> asyncio.Event:
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            app[SERVICE].runs.hurry()
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stopped


def _greet(host: str, port: int) -> None:
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"Odysseus {odysseus.__version__} listens at {url}\nTry it:\n")
    print(f"  curl -N {url}/api/chat_stream -H 'Content-Type: application/json' -d '{{\"message\": \"Hello!\"}}'\n")
    sys.stdout.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
