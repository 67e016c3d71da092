"""The command line: what can be called, and with what. The commands themselves are modules of their own.

They are imported when they are called: nobody who chats has to wait until a whole service is loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import odysseus
from odysseus import tokens
from odysseus.errors import SettingsError

__all__ = ["main"]

_REFUSED, _INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except SettingsError as error:
        print(f"odysseus: {error}", file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="odysseus", description=odysseus.__doc__)
    parser.add_argument("--version", action="version", version=odysseus.__version__)
    parser.set_defaults(run=_serve, workers=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the service; this is what happens without a command, too")
    serve.add_argument("--workers", type=int, metavar="N", help="so many processes on one port; needs Redis")
    serve.set_defaults(run=_serve)

    chat = commands.add_parser("chat", help="say something to a running service, and see its answer as it comes")
    chat.add_argument("message", metavar="MESSAGE", help="what to say; - reads it from stdin")
    chat.add_argument("--url", type=_url, default="http://127.0.0.1:8080", help="the service's; %(default)s")
    chat.add_argument("--session", metavar="ID", help="go on with this session, instead of a new one")
    chat.add_argument("--model", metavar="M", help="default: the session's, then the service's")
    chat.add_argument("--agent", action="store_true", help="let the model use tools")
    chat.add_argument("--system", metavar="S", help="the system prompt")
    chat.add_argument("--token-file", metavar="FILE", type=_token, dest="token", help="the file of an API token")
    chat.set_defaults(run=_chat)

    tokens.add_parser(commands)

    check = commands.add_parser("check", help="test what `serve` would need, and say what is wrong")
    check.set_defaults(run=_check)

    settings = commands.add_parser("settings", help="print what can be set")
    settings.set_defaults(run=_settings)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    from odysseus.settings import Settings

    settings = Settings.load()  # before all else that has to be imported: a wrong one is said at once
    if arguments.workers is not None:
        from odysseus import workers

        return workers.run(settings, arguments.workers)
    from odysseus import serving

    serving.run(settings)
    return 0


def _settings(_: argparse.Namespace) -> int:
    from odysseus.settings import Settings

    print(Settings.markdown())
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    from odysseus.chat_client import Asked, chat
    from odysseus.terminal import Screen

    try:
        message = sys.stdin.buffer.read().decode().removesuffix("\n") if arguments.message == "-" else arguments.message
        for text in (message, arguments.system or "", arguments.session or "", arguments.model or ""):
            text.encode()
    except UnicodeError:
        print("odysseus: the message isn't UTF-8", file=sys.stderr)
        return _REFUSED
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character its encoding doesn't have is no reason to lose an answer
        sys.stdout.reconfigure(errors="replace")
    asked = Asked(
        url=arguments.url,
        message=message,
        session_id=arguments.session,
        model=arguments.model,
        agent=arguments.agent,
        system=arguments.system,
        token=arguments.token,
    )
    return asyncio.run(chat(asked, Screen(sys.stdin, sys.stdout, sys.stderr)))


def _check(_: argparse.Namespace) -> int:
    from odysseus.check import check

    async def report() -> bool:
        good = True
        async for finding in check():
            good &= finding.ok
            print(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.part}: {finding.words}", flush=True)
        return good

    logging.getLogger("odysseus").addHandler(logging.NullHandler())  # the findings say it all
    return 0 if asyncio.run(report()) else 1


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "?" in text or "#" in text:
        raise argparse.ArgumentTypeError(f"not the URL of a service, such as http://127.0.0.1:8080: {text!r}")
    return text.rstrip("/")


def _token(name: str) -> str:
    """Return the token in file *name*. On the command line itself it would be in every list of processes."""
    try:
        token = Path(name).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{name} can't be read") from error
    if not token or not all("!" <= character <= "~" for character in token):
        raise argparse.ArgumentTypeError(f"{name} doesn't hold a token")
    return token
