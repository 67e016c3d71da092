"""`odysseus token`: makes, lists and revokes API tokens in the configured database, also while the service runs.

It doesn't take the data folder: that is the service's, and what is done here is one transaction.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from odysseus.accounts.api_tokens import new_token
from odysseus.errors import OdysseusError

if TYPE_CHECKING:  # they take a second to load, for which a command that isn't this one needn't wait
    from odysseus.settings import Settings
    from odysseus.store.tokens import Tokens

__all__ = ["add_parser", "main"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `token`. What it parses is for `main`, which stands in it as `run`."""
    token = subparsers.add_parser("token", help="make, list and revoke API tokens")
    token.set_defaults(run=main)
    verbs = token.add_subparsers(title="commands", metavar="COMMAND", dest="verb", required=True)
    add = verbs.add_parser("add", help="make a token and print it, once")
    add.add_argument("name", metavar="NAME", help="who it is for: what is done with it belongs to this owner")
    verbs.add_parser("list", help="list the tokens that were made")
    revoke = verbs.add_parser("revoke", help="revoke a token; the streams it has opened end soon after")
    revoke.add_argument("token", metavar="ID", help="the token's id, or the name whose tokens are all meant")


def main(arguments: argparse.Namespace) -> int:
    """Do what *arguments* say; return the exit status."""
    from odysseus.settings import Settings

    try:
        return asyncio.run(_run(arguments, Settings.load()))
    except OdysseusError as error:
        return _refuse(str(error))


async def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    from odysseus.store import Database, database_url
    from odysseus.store.tokens import Tokens

    database = Database(database_url(settings.database()))
    try:
        await database.open()
        tokens = Tokens(database)
        match arguments.verb:
            case "add":
                return await _add(tokens, arguments.name, settings)
            case "list":
                return await _list(tokens)
            case _:
                return await _revoke(tokens, arguments.token)
    finally:
        await database.close()


async def _add(tokens: Tokens, name: str, settings: Settings) -> int:
    try:
        text, stored = new_token(name)
    except ValueError as error:
        return _refuse(str(error))
    await tokens.add(stored)
    print(text)  # alone on its stream, so that a script can take it
    _say("This is the token. It is shown once and can't be found again.")
    if settings.auth != "token":
        _say(f"It is good for nothing yet: ODYSSEUS_AUTH is {settings.auth}, not token.")
    return 0


async def _list(tokens: Tokens) -> int:
    every = await tokens.all()
    width = max((len(token.name) for token in every), default=0)
    for token in every:
        revoked = f"  revoked {_time(token.revoked_at)}" if token.revoked_at else ""
        print(f"{token.id}  {token.name:{width}}  made {_time(token.created_at)}{revoked}")
    return 0


async def _revoke(tokens: Tokens, id_or_name: str) -> int:
    revoked = await tokens.revoke(id_or_name)
    if not revoked:
        return _refuse(f"there is no token {id_or_name!r}; `odysseus token list` lists them")
    for token in revoked:
        print(f"{token.id} of {token.name} is revoked")
    return 0


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")


def _refuse(problem: str) -> int:
    _say(f"odysseus: {problem}")
    return 2


def _say(line: str) -> None:
    print(line, file=sys.stderr)
