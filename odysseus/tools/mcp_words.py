"""Between the words of MCP and those of a model: names of tools, and results as text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

__all__ = ["text_of", "unique_name"]

_MAX_NAME = 64


def unique_name(server: str, tool: str, taken: Collection[str]) -> str:
    """Return what a model calls *tool* of *server*: of 64 `A-Za-z0-9_-` at most, and not one of *taken*."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}__{tool}")[:_MAX_NAME]
    if name not in taken:
        return name
    suffix = f"_{hashlib.sha256(tool.encode()).hexdigest()[:6]}"
    return name[: _MAX_NAME - len(suffix)] + suffix


def text_of(result: CallToolResult) -> str:
    """Return *result* as a model can read it; what isn't text becomes a short mark."""
    parts = [_text_of_block(block) for block in result.content]
    if result.structured_content is not None and not any(isinstance(block, TextContent) for block in result.content):
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def _text_of_block(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return _mark(block.type, block.mime_type, _size(block.data))
        case ResourceLink():
            return _mark("resource", block.uri, block.mime_type)
    resource = block.resource
    if isinstance(resource, TextResourceContents):
        return resource.text  # a file's content, as a rule, and what was asked for
    return _mark("resource", resource.uri, resource.mime_type, _size(resource.blob))


def _mark(*parts: str | None) -> str:
    return f"[{', '.join(part for part in parts if part)}]"


def _size(base64: str) -> str:
    return f"{len(base64.rstrip('=')) * 3 // 4} bytes"
