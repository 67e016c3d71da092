"""Answers as HTML: Markdown rendered, code coloured, everything that could do harm left out. Pure, and slow.

Two barriers stand between a model and the page, and each would do alone: the parser knows no HTML, so that what looks
like it is text; and what the parser made is sanitised as if a stranger had written it. An answer never makes a browser
ask third parties: images become links.

Brackets that nest and never close cost the parser forty times as much as ordinary text. Its steps are counted, and a
text that takes too many, or is too long, comes out as it is.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache
from time import thread_time

import nh3
from markdown_it import MarkdownIt
from markdown_it.parser_inline import ParserInline
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments import format as format_tokens
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES

__all__ = ["render", "sanitised"]

_MAX_CHARS = 300_000
_STEPS = 10_000
_STEPS_A_CHAR = 2  # ordinary text takes a hundredth of it

_MAX_CODE_CHARS = 10_000  # of a block
_COLOUR_S = 0.5  # for an answer: the time of many lexers grows with the square of what is odd enough

# Those that models use, but for a few (ini, ocaml) in whose lexers one search for one token can take seconds, during
# which Python lets nothing else run.
_NAMES = """
    bash c c# c++ clojure cpp cs csharp css dart diff docker dockerfile elixir erlang go golang graphql haskell hs
    html java javascript js json jsx julia kotlin lua make makefile md nginx objective-c perl php
    powershell proto protobuf ps1 py python r rb rs ruby rust scala scss sh shell sql swift terraform toml ts
    typescript xml yaml yml zig zsh
"""
_LANGUAGES = frozenset(_NAMES.split())
_TAGS = """
    a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul
"""
_SCHEMES = ("http://", "https://", "mailto:")
_ALIGNED = {"align": {"left", "center", "right"}}

_cleaner = nh3.Cleaner(
    tags=set(_TAGS.split()),
    attributes={"a": {"href", "title"}, "ol": {"start"}},
    tag_attribute_values={"th": _ALIGNED, "td": _ALIGNED},
    allowed_classes={
        "div": {"highlight"},
        "code": {f"language-{language}" for language in _LANGUAGES},
        "span": {name for name in STANDARD_TYPES.values() if name},
    },
    set_tag_attribute_values={"a": {"target": "_blank"}},
    link_rel="noopener noreferrer nofollow",
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
)


def render(text: str) -> str:
    """Return the Markdown *text* as HTML that can be put into a page. A text that is too much for it is a `<pre>`."""
    if len(text) > _MAX_CHARS:
        return _as_it_is(text)
    env: EnvType = {"steps": _STEPS + _STEPS_A_CHAR * len(text), "colour_s": _COLOUR_S}
    try:
        return sanitised(_markdown.render(text, env))
    except _TooMuch:
        return _as_it_is(text)


def sanitised(markup: str) -> str:
    """Return *markup* without whatever an answer has no need of: the second barrier."""
    return _cleaner.clean(markup)


def _as_it_is(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


class _TooMuch(Exception):
    """The text has used up its steps."""


class _Inline(ParserInline):
    """Counts its steps of looking ahead, as from a bracket to the one that may close it."""

    def skipToken(self, state: StateInline) -> None:
        if (left := state.env["steps"] - 1) < 0:
            raise _TooMuch
        state.env["steps"] = left
        super().skipToken(state)


class _Renderer(RendererHTML):
    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        words = tokens[idx].info.split(maxsplit=1)
        return _code(tokens[idx].content, words[0].lower() if words else "", env)

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _code(tokens[idx].content, "", env)


def _code(code: str, language: str, env: EnvType) -> str:
    if language not in _LANGUAGES:
        return f'<div class="highlight"><pre><code>{html.escape(code)}</code></pre></div>\n'
    coloured = _coloured(code, language, env) if len(code) <= _MAX_CODE_CHARS else html.escape(code)
    return f'<div class="highlight"><pre><code class="language-{language}">{coloured}</code></pre></div>\n'


def _coloured(code: str, language: str, env: EnvType) -> str:
    """Return *code* with its tokens in `span`s; without them when the answer's time for that is used up."""
    until = thread_time() + env["colour_s"]
    tokens = []
    for token in _lexer(language).get_tokens(code):
        tokens.append(token)
        if thread_time() > until:
            env["colour_s"] = 0.0
            return html.escape(code)
    env["colour_s"] = until - thread_time()
    return str(format_tokens(tokens, _formatter))


@cache
def _lexer(language: str) -> Lexer:
    return get_lexer_by_name(language, stripnl=False)


_formatter = HtmlFormatter(nowrap=True)


def _links_for_images(state: StateCore) -> None:
    for token in state.tokens:
        if token.type == "inline" and token.children and any(child.type == "image" for child in token.children):
            token.children = list(_without_images(token.children))


def _without_images(tokens: Sequence[Token]) -> Sequence[Token]:
    """Return *tokens* with a link to each image in its place; where a link is already, its text alone."""
    kept: list[Token] = []
    links = 0
    for token in tokens:
        links += (token.type == "link_open") - (token.type == "link_close")
        if token.type != "image":
            kept.append(token)
            continue
        source = str(token.attrs["src"])
        text = Token("text", "", 0, content=token.content or source)
        if links:
            kept.append(text)
        else:
            kept += (Token("link_open", "a", 1, attrs={"href": source}), text, Token("link_close", "a", -1))
    return kept


def _align_cells(state: StateCore) -> None:
    """Say how a table's cells are aligned without a `style`, which the page's security policy forbids."""
    for token in state.tokens:
        if token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", None)):
            token.attrs["align"] = str(style).removeprefix("text-align:")


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", renderer_cls=_Renderer)
    parser.inline = _Inline()
    parser.configure("commonmark", {"html": False, "breaks": True, "xhtmlOut": False})
    parser.enable(["table", "strikethrough"])
    parser.validateLink = lambda url: url.lower().startswith(_SCHEMES)  # type: ignore[method-assign]
    parser.core.ruler.push("links_for_images", _links_for_images)
    parser.core.ruler.push("align_cells", _align_cells)
    return parser


_markdown = _parser()
