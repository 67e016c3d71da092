"""The text of a public web page.

The address comes from a model, and so from whoever wrote what the model read. Nothing but public addresses may be
connected to, and that is checked where the connection is made: names, redirects and DNS can't get round it.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Annotated, Any

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import Field
from yarl import URL

from odysseus.tools import ToolError
from odysseus.tools.public_addresses import Address, is_public

__all__ = ["UrlFetcher"]

_REDIRECTS = 5
_BODY_BYTES = 2_000_000
_PIECE_BYTES = 65_536

_TEXT = re.compile(r"text/.*|application/(.+\+)?(json|xml)")
_HTML = {"text/html", "application/xhtml+xml"}


class _NotPublicError(OSError):
    """The address isn't one that may be connected to."""


class UrlFetcher:
    """Fetches pages. It has an HTTP session from the first on, until `close`.

    *limit_s* holds for a whole call. *allowed* decides about every address before it is connected to.
    """

    def __init__(
        self,
        *,
        limit_s: float = 20,
        allowed: Callable[[Address], bool] = is_public,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._limit_s = limit_s
        self._allowed = allowed
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch_url(self, url: Annotated[str, Field(description="begins with https:// or http://")]) -> str:
        """Read a public web page, or another text on the web, by its URL. Returns its text without the markup."""
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._fetched(_checked(url))
        except TimeoutError as error:
            raise ToolError(f"the page took longer than {self._limit_s:g} seconds") from error

    async def _fetched(self, url: URL) -> str:
        if self._session is None:
            self._session = self._new_session()
        for _ in range(_REDIRECTS + 1):
            with _translated(url):
                async with self._session.get(url, allow_redirects=False) as response:
                    if response.status not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                        return await _text_of(response)
                    url = _checked(response.headers["Location"], base=url)
        raise ToolError(f"the page redirects more than {_REDIRECTS} times")

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=self._new_socket,
                resolver=self._resolver,
                use_dns_cache=False,
                force_close=True,  # each request makes a connection, and so passes the check
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "Odysseus"},
            timeout=aiohttp.ClientTimeout(),  # none but the whole call's
            trust_env=False,  # a proxy would connect for us, to anything
        )

    def _new_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        try:
            allowed = self._allowed(ip_address(address[0]))
        except ValueError:  # what the system may yet understand, such as 127.1
            allowed = False
        if not allowed:
            raise _NotPublicError
        return socket.socket(family, kind, protocol)


def _checked(text: str, *, base: URL | None = None) -> URL:
    try:
        url = URL(text) if base is None else base.join(URL(text))
    except ValueError as error:
        raise ToolError("that isn't a URL") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ToolError("a URL must begin with https:// or http:// and a host, for example https://example.com/")
    if url.raw_user is not None or url.raw_password is not None:
        raise ToolError("a URL with a user name or password isn't fetched")
    return url


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    """Turn errors into `ToolError`s that tell nothing of addresses the host's name stands for."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        raise ToolError(f"there is no host {url.host}") from error
    except aiohttp.ClientSSLError as error:
        raise ToolError(f"there is no secure connection to {url.host}; its certificate may be invalid") from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, _NotPublicError):
            raise ToolError(f"{url.host} has no public address, so it isn't fetched") from error
        raise ToolError(f"{url.host} can't be connected to") from error
    except (aiohttp.InvalidURL, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long
        raise ToolError("that isn't a URL") from error
    except aiohttp.ClientError as error:
        raise ToolError(f"{url.host} broke off, or gave an answer that can't be read") from error


async def _text_of(response: aiohttp.ClientResponse) -> str:
    if not 200 <= response.status < 300:
        raise ToolError(f"the server answered with status {response.status}")
    if not _TEXT.fullmatch(response.content_type):
        raise ToolError(f"the page is {response.content_type}, and only text can be read")
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        body += piece
        if len(body) > _BODY_BYTES:
            break
    html = response.content_type in _HTML
    text = await asyncio.to_thread(_text_in, bytes(body[:_BODY_BYTES]), response.charset, html=html)
    if not text:
        raise ToolError("the page has no text; it may need JavaScript, which isn't run")
    return f"{text}\n[cut after {_BODY_BYTES} bytes]" if len(body) > _BODY_BYTES else text


def _text_in(body: bytes, charset: str | None, *, html: bool) -> str:
    from odysseus.tools.page_text import text_in  # its parser takes 5 MB, and most services never fetch a page

    return text_in(body, charset, html=html)
