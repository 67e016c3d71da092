"""What a model reads: a session's messages, in the roles of the chat-completions dialect. Pure.

Source of the order: OpenAI's API reference, "Create chat completion": an assistant message with `tool_calls` is
followed by one `tool` message for each of them, before anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from odysseus.answer import with_stopped_results
from odysseus.events import Part, ToolCallPart
from odysseus.messages import Message, Role
from odysseus.upstream import ChatMessage, FunctionCall

__all__ = ["conversation", "spoken"]


def conversation(system: str | None, history: Sequence[Message]) -> list[ChatMessage]:
    """Return *history* as a model reads it. What failed answers left as user messages in a row becomes one, as many
    chat templates want the roles to alternate; an answer that holds nothing is left out."""
    messages: list[ChatMessage] = [{"role": "system", "content": system}] if system else []
    for message in history:
        if message.role is Role.ASSISTANT:
            messages += spoken(with_stopped_results(message.parts))  # its end may still wait in the spool
        elif messages and messages[-1]["role"] == "user":
            messages[-1] = {"role": "user", "content": f"{messages[-1]['content']}\n\n{message.content}"}
        else:
            messages.append({"role": "user", "content": message.content})
    return messages


def spoken(parts: Sequence[Part]) -> Iterator[ChatMessage]:
    """Yield an answer's *parts* as messages: one of the assistant for each time the model was asked, and one for each
    tool's result. Reasoning isn't sent back."""
    text: list[str] = []
    calls: list[FunctionCall] = []
    for part in parts:
        match part["type"]:
            case "text":
                if calls:
                    yield _assistant(text, calls)
                    text, calls = [], []
                text.append(part["text"])
            case "tool_call":
                calls.append(_call(part))
            case "tool_result":
                if calls:
                    yield _assistant(text, calls)
                    text, calls = [], []
                yield {"role": "tool", "tool_call_id": part["call_id"], "content": part["output"]}
    if text or calls:
        yield _assistant(text, calls)


def _assistant(text: Sequence[str], calls: Sequence[FunctionCall]) -> ChatMessage:
    content = "".join(text)
    if not calls:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": content or None, "tool_calls": calls}


def _call(part: ToolCallPart) -> FunctionCall:
    arguments = orjson.dumps(part["arguments"]).decode()
    return {"id": part["call_id"], "type": "function", "function": {"name": part["name"], "arguments": arguments}}
