"""gunicorn's settings: gunicorn -c deploy/gunicorn.conf.py odysseus.application:create_runner

Address and limits come from Odysseus's own settings, so that there is one place for them. What gunicorn says of
keep-alive and access logs doesn't reach the runner, which has its own: 75 s, longer than nginx's 60 s.
"""

from __future__ import annotations

import sys

from odysseus.errors import SettingsError
from odysseus.logs import configuration
from odysseus.settings import Settings

try:
    _settings = Settings.load()
except SettingsError as error:
    sys.exit(f"odysseus: {error}")

# A second worker would be a second node, with a data folder of its own: `odysseus serve --workers` starts such. The
# data folder's lock keeps it from starting anyway; for the same reason there is no reload by SIGHUP, only a restart.
workers = 1
worker_class = "aiohttp.GunicornUVLoopWebWorker"
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
backlog = 1024

# The longest stop, as in odysseus.service, and 1 s until the worker has noticed. What stops gunicorn must wait longer
# than this.
graceful_timeout = 90 + int(_settings.drain_s)
# Not the length of a request: how long the worker may be silent, as it is while it migrates the database at its start,
# and while it goes down.
timeout = graceful_timeout + 60

# One log, gunicorn's own lines included, as ODYSSEUS_LOG_FORMAT and ODYSSEUS_LOG_LEVEL say.
logconfig_dict = configuration(_settings.log_format, _settings.log_level, messages=_settings.log_messages)
logconfig_dict["loggers"]["gunicorn.error"] = {"level": _settings.log_level.upper(), "handlers": [], "propagate": True}

# Nothing asks for gunicorn's control socket, and its place may not be writable.
control_socket_disable = True
