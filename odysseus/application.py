"""The service put together: what is started, in which order, and how it goes down again."""

from __future__ import annotations

import gc
import logging
import logging.config
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cache, partial

from aiohttp import web
from pydantic import HttpUrl

from odysseus.accounts.configured import configured_accounts
from odysseus.accounts.proxies import TrustedProxies
from odysseus.accounts.secret import signing_secret
from odysseus.agent import AgentLimits
from odysseus.compares import Compares
from odysseus.data_folder import data_folder
from odysseus.ended_line import log_ended
from odysseus.logs import configuration
from odysseus.rates import Rates
from odysseus.recovery import alone
from odysseus.run import Limits, Run
from odysseus.runs import Runs
from odysseus.saves import FileSpool, Saves
from odysseus.server_settings import UpstreamSettings
from odysseus.service import Service
from odysseus.settings import Settings
from odysseus.store import Database, Store, database_url
from odysseus.store.nodes import Nodes
from odysseus.store.tokens import Tokens
from odysseus.tasks import Tasks
from odysseus.told import Told, told_of_run
from odysseus.tools.calculator import calculator
from odysseus.tools.current_time import current_time
from odysseus.tools.fetch_url import UrlFetcher
from odysseus.tools.functions import tool_of
from odysseus.tools.search_sessions import search_sessions_tool
from odysseus.tools.toolbox import Toolbox, ToolServer
from odysseus.turns import Turns
from odysseus.upstream.catalog import Catalog
from odysseus.upstream.client import Client
from odysseus.upstream.demo import DemoServer
from odysseus.web import accounts, audit, chat, compare, ops, page, sessions, share
from odysseus.web.accounts import ACCOUNTS, PROXIES, RATES, let_in
from odysseus.web.errors import errors_as_json, until_answered
from odysseus.web.guard import Guard
from odysseus.web.lag import Lag
from odysseus.web.metrics import METRICS, Metrics
from odysseus.web.openapi import describe
from odysseus.web.origins import Origins
from odysseus.web.pulse import Pulse
from odysseus.web.refusals import told_in_a_line
from odysseus.web.rendered import rendering
from odysseus.web.routes import COMPARES, SERVICE, SETTINGS, add_routes
from odysseus.web.share import SECRET
from odysseus.web.stream import GUARD, PULSE
from odysseus.webhook import HttpPost, Webhook

__all__ = ["ROUTES", "create_app", "create_runner", "drain", "log_to_stderr"]

_log = logging.getLogger(__name__)

ROUTES = tuple(route for room in (chat, compare, sessions, accounts, share, audit, ops, page) for route in room.ROUTES)
"""Everything the service answers."""

_SAVES_S = 25.0  # more than the retries of a save and the spool take together
_CONNECTIONS_S = 1.0  # what a client that doesn't read its last frames gets; the server spends it twice
_KEEP_ALIVE_S = 75.0  # longer than nginx keeps an idle connection to us, or it would reuse one that we just closed


def create_app(settings: Settings) -> web.Application:
    """Return the application. Run it with `create_runner`: a plain `run_app` doesn't cancel what clients abandon."""
    tasks = Tasks()
    origins = Origins(settings.cors_origins)
    app = web.Application(
        middlewares=[origins.answer_preflight, errors_as_json, until_answered(tasks, let_in)],
        client_max_size=settings.max_body_bytes,
    )
    app.on_response_prepare.append(origins.tell)
    app[SETTINGS] = settings
    app[PROXIES] = TrustedProxies(settings.trusted_proxies)
    app[RATES] = Rates(settings.requests_per_minute)
    app[PULSE] = Pulse(settings.ping_interval_s)
    add_routes(app, ROUTES)
    app[ops.OPENAPI] = _openapi()
    app.cleanup_ctx.append(partial(_lifetime, settings, tasks))
    app.cleanup_ctx.append(rendering)
    # Before the server's own shutdown, which would cancel handlers a second time, in the middle of their saves.
    app.on_shutdown.append(drain)
    return app


@cache  # it takes as long as all else in making an application
def _openapi() -> bytes:
    return describe(ROUTES)


async def _lifetime(settings: Settings, tasks: Tasks, app: web.Application) -> AsyncIterator[None]:
    """Start everything, and in the end stop it the other way round."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(data_folder(settings.data_dir))
        app[SECRET] = signing_secret(settings.secret, folder)
        database = Database(database_url(settings.database()))
        stack.push_async_callback(database.close)
        await database.open()
        store = Store(database)
        stack.push_async_callback(store.close)
        tokens = Tokens(database)
        app[ACCOUNTS] = configured_accounts(settings, tokens)
        saves = Saves(store.finish, FileSpool(folder / "spool"), tasks, shared=settings.redis_url is not None)
        catalog = Catalog([_server(server, settings) for server in await _model_servers(settings, stack)])
        stack.push_async_callback(catalog.close)
        webhook = _webhook(settings, stack)
        stack.push_async_callback(tasks.drain, _SAVES_S)
        stack.callback(saves.close)
        app[METRICS] = metrics = Metrics()

        def tell(told: Told) -> None:
            log_ended(told)
            if webhook is not None:
                webhook.tell(told)

        def on_ended(run: Run[bytes]) -> None:
            if not run.withdrawn:  # else it is another node's to tell
                metrics.ended(run)
                tell(told_of_run(run))

        runs: Runs[bytes] = Runs(_limits(settings), tasks=tasks, on_ended=on_ended)
        nodes = Nodes(database)
        if settings.redis_url is None:
            elsewhere = await alone(store, nodes, saves)
        else:
            from odysseus.among_others import among_others  # with Redis' client, which only several nodes need

            elsewhere = await among_others(settings, folder, runs, store, nodes, saves, tell, tasks, stack)
        metrics.read_off(runs, saves, webhook, elsewhere)
        stack.callback(Lag(metrics.loop_lag.observe).stop)
        toolbox = await _toolbox(settings, store, stack)
        turns = Turns(store, catalog, toolbox, _agent_limits(settings), saves, tasks)
        app[SERVICE] = Service(runs, store, turns, elsewhere)
        app[COMPARES] = Compares(app[SERVICE], pane_expiry_s=settings.pane_expiry_s)
        app[GUARD] = Guard(tokens.revoked)
        watching = tasks.spawn(app[GUARD].watch())
        stack.callback(watching.cancel)
        yield


async def create_runner(settings: Settings | None = None) -> web.AppRunner:
    """Return the runner that serves the application. Without *settings* it is the whole entry, as gunicorn calls it.

    Raises `SettingsError`.
    """
    if settings is None:
        settings = Settings.load()
        log_to_stderr(settings)
    app = create_app(settings)
    app.on_startup.append(_freeze)
    return web.AppRunner(
        app,
        handler_cancellation=True,  # off by default in production, on in every test server: the compare depends on it
        keepalive_timeout=_KEEP_ALIVE_S,
        shutdown_timeout=_CONNECTIONS_S,
        access_log=None,
    )


async def _freeze(_: web.Application) -> None:
    """Let the garbage collector leave alone what the start has made. It stays anyway, and every full collection would
    look through it: 100,000 objects, for which all streams would wait 50 ms."""
    gc.collect()
    gc.freeze()


def log_to_stderr(settings: Settings) -> None:
    """Log what happens, unless whoever embeds us has set up logging already."""
    if not logging.getLogger().handlers:
        chosen = configuration(settings.log_format, settings.log_level, messages=settings.log_messages)
        logging.config.dictConfig(chosen)
    logging.getLogger("aiohttp.server").addFilter(told_in_a_line)


async def drain(app: web.Application) -> None:
    """Take no new runs, let the live ones go on for `DRAIN_S`, then stop and save them. A second call finds it done."""
    app[SERVICE].elsewhere.hand_over()
    await app[SERVICE].runs.drain(app[SETTINGS].drain_s, _SAVES_S)


def _webhook(settings: Settings, stack: AsyncExitStack) -> Webhook | None:
    if settings.webhook_url is None:
        return None
    webhook = Webhook(HttpPost(str(settings.webhook_url)), settings.webhook_key())
    stack.push_async_callback(webhook.close)
    return webhook


async def _toolbox(settings: Settings, store: Store, stack: AsyncExitStack) -> Toolbox:
    fetcher = UrlFetcher()
    stack.push_async_callback(fetcher.close)
    functions = (
        tool_of(calculator),
        tool_of(current_time),
        tool_of(fetcher.fetch_url),
        search_sessions_tool(store.search),
    )
    known = {tool.name: tool for tool in functions}
    builtin = [replace(known[name], needs_approval=name in settings.tools_need_approval) for name in settings.tools]
    servers: list[ToolServer] = []
    if settings.mcp_servers:
        from odysseus.tools.mcp import McpServer  # takes half a second, which only those wait who have servers

        servers += [McpServer(server) for server in settings.mcp_servers]
    toolbox = Toolbox(builtin, servers)
    stack.push_async_callback(toolbox.close)
    toolbox.start()
    return toolbox


async def _model_servers(settings: Settings, stack: AsyncExitStack) -> list[UpstreamSettings]:
    if servers := settings.model_servers():
        return list(servers)
    demo = DemoServer()
    stack.push_async_callback(demo.close)
    url = await demo.start()
    _log.info("no model server is set: the demo model answers, at %s", url)
    return [UpstreamSettings(name="demo", url=HttpUrl(url))]


def _server(server: UpstreamSettings, settings: Settings) -> tuple[Client, tuple[str, ...]]:
    key = server.api_key.get_secret_value() if server.api_key else None
    client = Client(
        server.name,
        str(server.url),
        key,
        connect_s=settings.upstream_connect_s,
        silence_s=settings.upstream_silence_s,
    )
    return client, server.models


def _agent_limits(settings: Settings) -> AgentLimits:
    return AgentLimits(
        max_tool_rounds=settings.max_tool_rounds,
        max_round_calls=settings.max_round_calls,
        max_parallel_tools=settings.max_parallel_tools,
        max_tool_output_chars=settings.max_tool_output_chars,
        tool_timeout_s=settings.tool_timeout_s,
        approval_timeout_s=settings.approval_timeout_s,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        idle_timeout_s=settings.idle_timeout_s,
        wall_clock_timeout_s=settings.wall_clock_timeout_s,
        unattended_limit_s=settings.unattended_limit_s,
        max_log_bytes=settings.max_log_bytes,
        max_runs=settings.max_runs,
        max_runs_per_owner=settings.max_runs_per_owner,
        max_queued=settings.max_queued,
        max_subscribers=settings.max_subscribers,
        max_subscribers_per_run=settings.max_subscribers_per_run,
        replay_grace_s=settings.replay_grace_s,
    )
