"""The chat-completions dialect: what a request says, and what each event of the streamed answer means. Pure.

Source: OpenAI's API reference, "Create chat completion" with `stream: true`. `reasoning_content` (DeepSeek, vLLM) and
`reasoning` (Ollama, OpenRouter) are how models show their thinking.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from odysseus.errors import UpstreamError
from odysseus.sse import Decoder, EventTooLong
from odysseus.storable import storable
from odysseus.upstream import Ask, Call, Finish, Piece, Reasoning, Take, Text, Tokens
from odysseus.upstream.tool_calls import ToolCalls

__all__ = ["AnswerDecoder", "request_body"]

_MAX_REST = 64 * 1024  # of a longer event the pieces are kept, not joined again and again
_TEXTS = frozenset({"content", "reasoning_content", "reasoning"})
_MAX_COUNT = 2**53  # what JavaScript can hold


def request_body(ask: Ask) -> bytes:
    options = {
        "temperature": ask.temperature,
        "max_tokens": ask.max_tokens,
        "tools": [{"type": "function", "function": tool} for tool in ask.tools] or None,
    }
    return orjson.dumps(
        {
            "model": ask.model,
            "messages": ask.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in options.items() if value is not None},
        }
    )


class AnswerDecoder:
    """Decodes one streamed answer, however its bytes are cut."""

    def __init__(self) -> None:
        self.done = False
        """The model server has said `[DONE]`; what follows isn't part of the answer."""
        self._finished = False  # a finish_reason came: without `[DONE]` the answer is complete all the same
        self._sse = Decoder()
        self._rest = b""  # of an event that is still to come
        self._calls = ToolCalls()
        self._failure: UpstreamError | None = None

    def feed(self, data: bytes) -> Sequence[Piece]:
        """Return what *data* adds to the answer, neighbours of one kind joined.

        Raises `UpstreamError` for a broken stream or an error inside it, at the first call that has no piece before
        it to return: what came before an error is never lost.
        """
        if self._failure is not None:
            raise self._failure
        whole, self._rest = _whole_events(self._rest + data)
        if (plain := self._plain(whole)) is not None:
            return plain
        pieces: list[Piece] = []
        try:
            for event in self._sse.feed(whole):
                if event.data == b"[DONE]":
                    self.done = True
                if self.done:
                    pieces += self._whole_calls()  # of a server that gives no finish_reason
                    break
                pieces += self._pieces(event.data)
        except EventTooLong as error:
            self._failure = UpstreamError("upstream_protocol", f"the model server sent {error}")
        except UpstreamError as error:
            self._failure = error
        if self._failure is not None and not pieces:
            raise self._failure
        return _joined(pieces)

    def offer(self, take: Take, data: bytes) -> bool:
        """Offer *take* what *data* adds, if that is nothing but text or reasoning. False: *data* is still to be fed."""
        whole, rest = _whole_events(self._rest + data)
        if (plain := self._plain(whole)) is None or not take(plain):
            return False
        self._rest = rest
        return True

    def end(self) -> None:
        """The connection has ended cleanly. Raises `UpstreamError` if the answer wasn't complete."""
        self.feed(b"")
        if not (self.done or self._finished):
            raise UpstreamError("upstream_protocol", "the model server ended the stream before the answer was complete")

    def _plain(self, whole: bytes) -> list[Piece] | None:
        in_between = self._sse.between and not self.done and self._failure is None
        return _plain(whole) if in_between else None

    def _pieces(self, data: bytes) -> Iterable[Piece]:
        chunk = _json(data)
        if not isinstance(chunk, dict):
            raise UpstreamError("upstream_protocol", "the model server sent something that isn't a chunk of an answer")
        if (error := chunk.get("error")) is not None:
            raise _error_inside(error)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            yield from self._choice(choice)
        if isinstance(usage := chunk.get("usage"), dict):
            yield Tokens(
                {
                    "prompt_tokens": _count(usage.get("prompt_tokens")),
                    "completion_tokens": _count(usage.get("completion_tokens")),
                    "total_tokens": _count(usage.get("total_tokens")),
                }
            )

    def _choice(self, choice: object) -> Iterable[Piece]:
        if not isinstance(choice, dict):
            return
        if isinstance(delta := choice.get("delta"), dict):
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(thought, str) and thought:
                yield Reasoning(storable(thought))
            text = delta.get("content")
            if isinstance(text, str) and text:
                yield Text(storable(text))
            self._calls.add(delta.get("tool_calls"))
        if isinstance(reason := choice.get("finish_reason"), str):
            self._finished = True
            yield from self._whole_calls()
            yield Finish(storable(reason))

    def _whole_calls(self) -> Iterable[Piece]:
        return [Call(storable(it.id), storable(it.name), storable(it.arguments)) for it in self._calls.take()]


def _whole_events(data: bytes) -> tuple[bytes, bytes]:
    """Cut *data* behind its last event, where what follows can wait for its end."""
    end = data.rfind(b"\n\n") + 2
    rest = data[end:]
    if end < 2 or len(rest) > _MAX_REST or b"\r" in rest:  # CR ends lines too, and so an event
        return data, b""
    return data[:end], rest


def _plain(events: bytes) -> list[Piece] | None:
    """Return what *events* say if that is nothing but text or reasoning, as it nearly always is; None if it isn't.

    One call of the JSON decoder for all of them, and no look at what isn't there, is a third of the cost. A line end
    can't stand in JSON, so what separates two events can't be a part of one.
    """
    if not (events.startswith(b"data: {") and events.endswith(b"}\n\n")):
        return None
    try:
        chunks = orjson.loads(b"[%b]" % events[6:-2].replace(b"\n\ndata: ", b","))
        texts: list[tuple[bool, list[str]]] = []
        for chunk in chunks:
            [choice] = chunk["choices"]
            delta = choice["delta"]
            if len(delta) > 1:
                delta.pop("role", None)  # as Ollama says it every time
            [(name, text)] = delta.items()
            if choice.get("finish_reason") is not None or chunk.get("usage") is not None or "error" in chunk:
                return None
            if not (type(text) is str and text) or name not in _TEXTS:
                return None
            thought = name != "content"
            if not texts or texts[-1][0] is not thought:
                texts.append((thought, []))
            texts[-1][1].append(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return [(Reasoning if thought else Text)(storable("".join(pieces))) for thought, pieces in texts]


def _json(data: bytes) -> Any:
    """Decode leniently what `orjson` refuses: cut surrogate pairs and bytes that aren't UTF-8 spoil a character, not
    the answer."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise UpstreamError("upstream_protocol", "the model server sent something that isn't JSON") from None


def _error_inside(error: object) -> UpstreamError:
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code <= 599:
        return UpstreamError("upstream_status", f"the model server failed in the middle of its answer, with {code}")
    return UpstreamError("upstream_protocol", "the model server reported an error in the middle of its answer")


def _count(value: object) -> int:
    return value if type(value) is int and abs(value) <= _MAX_COUNT else 0


def _joined(pieces: list[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + piece.text)
        elif isinstance(piece, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + piece.text)
        else:
            joined.append(piece)
    return joined
