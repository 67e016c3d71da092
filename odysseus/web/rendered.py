"""Answers as HTML, rendered beside the event loop: a long one takes half a second, for which every stream would wait.

One thread does it for all: Python would give two of them no more time together, and the loop less.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

from odysseus.markdown import render
from odysseus.messages import Message, Role
from odysseus.states import Status
from odysseus.web.schemas import MessageOut

__all__ = ["aside", "html_of", "message_out", "messages_out", "rendering"]

_THREAD = web.AppKey("rendering", Executor)

_T = TypeVar("_T")


async def rendering(app: web.Application) -> AsyncIterator[None]:
    """Have the thread, for as long as the application lives."""
    app[_THREAD] = thread = ThreadPoolExecutor(1, thread_name_prefix="rendering")
    yield
    thread.shutdown(wait=False, cancel_futures=True)


async def aside(request: web.Request, work: Callable[[], _T]) -> _T:
    """Return what *work* returns, which takes long and waits for nothing."""
    return await asyncio.get_running_loop().run_in_executor(request.app[_THREAD], work)


async def html_of(request: web.Request, messages: Sequence[Message | None]) -> Sequence[str | None]:
    """Return each answer's text as HTML that is safe to show; None for what is no answer, or hasn't ended."""
    if not any(_to_render(message) for message in messages):
        return [None] * len(messages)
    return await aside(request, lambda: [_html(message) for message in messages])


async def messages_out(request: web.Request, messages: Sequence[Message]) -> list[MessageOut]:
    htmls = await html_of(request, messages)
    return [
        MessageOut.model_validate(message).model_copy(update={"html": html})
        for message, html in zip(messages, htmls, strict=True)
    ]


async def message_out(request: web.Request, message: Message) -> MessageOut:
    [out] = await messages_out(request, [message])
    return out


def _to_render(message: Message | None) -> bool:
    return message is not None and message.role is Role.ASSISTANT and message.status is not Status.STREAMING


def _html(message: Message | None) -> str | None:
    return render(message.content) if message is not None and _to_render(message) else None
