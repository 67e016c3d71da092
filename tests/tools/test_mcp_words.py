from __future__ import annotations

from typing import Any

import pytest
from mcp_types import CallToolResult

from odysseus.tools.mcp_words import text_of, unique_name


def test_names_are_what_models_accept() -> None:
    assert unique_name("srv", "echo", ()) == "srv__echo"
    assert unique_name("srv", "files.read/größe", ()) == "srv__files_read_gr__e"
    assert unique_name("srv", "x" * 100, ()) == "srv__" + "x" * 59


@pytest.mark.parametrize("tools", [("a.b", "a/b", "a b"), ("x" * 70, "x" * 80)])
def test_names_are_unique(tools: tuple[str, ...]) -> None:
    names: list[str] = []
    for tool in tools:
        names.append(unique_name("srv", tool, names))
    assert len(set(names)) == len(tools)
    assert all(len(name) <= 64 for name in names)


TEXT = {"type": "text", "text": "words"}


@pytest.mark.parametrize(
    ("content", "structured", "text"),
    [
        ([], None, ""),
        ([TEXT, {"type": "text", "text": "more\n"}], None, "words\nmore\n"),
        ([TEXT], {"a": 1}, "words"),
        ([], {"ä": [1]}, '{"ä": [1]}'),
        ([], 0, "0"),
        (
            [{"type": "image", "mimeType": "image/png", "data": "YWJj"}],
            {"a": 1},
            '[image, image/png, 3 bytes]\n{"a": 1}',
        ),
        (
            [{"type": "audio", "mimeType": "audio/wav", "data": "YQ=="}, TEXT],
            None,
            "[audio, audio/wav, 1 bytes]\nwords",
        ),
        ([{"type": "resource_link", "uri": "file:///a", "name": "a"}], None, "[resource, file:///a]"),
        ([{"type": "resource", "resource": {"uri": "file:///a", "text": "in it"}}], None, "in it"),
        (
            [{"type": "resource", "resource": {"uri": "file:///a", "mimeType": "a/b", "blob": "YWI="}}],
            None,
            "[resource, file:///a, a/b, 2 bytes]",
        ),
    ],
)
def test_a_result_as_text(content: list[Any], structured: Any, text: str) -> None:
    result = CallToolResult.model_validate({"content": content, "structuredContent": structured})
    assert text_of(result) == text
