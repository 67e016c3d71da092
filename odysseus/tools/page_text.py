"""The text of a page, out of whatever bytes a server calls one."""

from __future__ import annotations

import codecs
import time
from typing import Any

from bs4 import BeautifulSoup
from bs4.builder import ParserRejectedMarkup
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString, PageElement, Tag

from odysseus.tools import ToolError

__all__ = ["text_in"]

_PARSING_CPU_S = 3.0  # a large page takes one; some small ones are written to take hours
_ELEMENTS = 100_000  # around 1 kB each

_NO_CHARSETS = {"idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined", "utf-7"}
"""Python's own; pages have none of them, and some take quadratic time."""

_UNREAD = {"iframe", "nav", "noscript", "script", "style", "svg", "template", "title"}
_LINES = frozenset(
    """
    address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure footer form
    h1 h2 h3 h4 h5 h6 header hr li main ol option p pre section summary table tr ul
    """.split()  # noqa: SIM905  # a list of them is 40 lines long
)
"""The elements that begin and end a line."""


def text_in(body: bytes, charset: str | None, *, html: bool) -> str:
    """Return what is to be read of *body*: of HTML its text, of anything else all. Raises `ToolError`."""
    if html and charset is None:
        charset = EncodingDetector.find_declared_encoding(body, is_html=True)
    text = _decoded(body, charset or "utf-8")
    if not html or "<" not in text:
        return text.strip()
    return _page_text(_Page(text))


def _decoded(body: bytes, charset: str) -> str:
    try:
        name = codecs.lookup(charset).name
        if name not in _NO_CHARSETS:
            return body.decode(name, "replace").removeprefix("\ufeff")
    except (LookupError, ValueError):  # it is unknown, or not one of text
        pass
    return body.decode("utf-8", "replace").removeprefix("\ufeff")


class _Page(BeautifulSoup):
    """A parsed page. Gives up on one that takes too much; `html.parser` itself has no limits.

    Raises `ToolError`. It is looked at in each event of the parser, as the thread can't be stopped from outside.
    """

    def __init__(self, html: str) -> None:
        self._ends = time.thread_time() + _PARSING_CPU_S
        self._elements = 0
        try:
            super().__init__(html.replace("<?xml ", "<?"), "html.parser")  # warns of xhtml otherwise
        except (ParserRejectedMarkup, ValueError) as error:  # ValueError: &#9..9; with thousands of digits
            raise ToolError("the page's HTML can't be read") from error

    def handle_starttag(self, *args: Any, **kwargs: Any) -> Any:
        self._elements += 1
        self._check()
        return super().handle_starttag(*args, **kwargs)

    def handle_endtag(self, *args: Any, **kwargs: Any) -> None:
        self._check()
        super().handle_endtag(*args, **kwargs)

    def handle_data(self, data: str) -> None:
        self._check()
        super().handle_data(data)

    def _check(self) -> None:
        if self._elements > _ELEMENTS or time.thread_time() > self._ends:
            raise ToolError("the page's HTML is too large to be read")


def _page_text(page: BeautifulSoup) -> str:
    """Return the title and the text, without blank lines. Only `pre` keeps its spaces."""
    lines = [" ".join(page.title.get_text().split()), ""] if page.title else []
    line: list[str] = []
    todo: list[PageElement | None] = [page]  # None ends a line; a stack, as pages may nest deeper than calls
    while todo:
        element = todo.pop()
        if element is None:
            lines.append(" ".join("".join(line).split()))
            line.clear()
        elif type(element) is NavigableString:  # not one of its kinds, such as Comment
            line.append(element)
        elif isinstance(element, Tag) and element.name == "pre":
            lines.extend(element.get_text().rstrip().splitlines())
        elif isinstance(element, Tag) and element.name not in _UNREAD:
            if element.name in ("td", "th"):
                line.append(" | ")
            ends = [None] if element.name in _LINES else []
            todo += [*ends, *reversed(element.contents), *ends]
    lines.append(" ".join("".join(line).split()))
    return "\n".join(kept for kept in lines if kept.strip())
