"""The settings that tell of other servers: those of models, and those of tools over MCP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    field_validator,
    model_validator,
)

__all__ = ["Key", "McpServerSettings", "UpstreamSettings"]


def _sendable(key: SecretStr) -> SecretStr:
    """Return the key without what a file may have put around it. Raises `ValueError` if no header can hold it."""
    value = key.get_secret_value().strip()
    if not all("!" <= character <= "~" for character in value):
        raise ValueError("holds a character that can't be sent")
    return SecretStr(value)


def _header(header: SecretStr) -> SecretStr:
    """As `_sendable`, but a header's value may be several words, as in `Bearer key`."""
    words = (_sendable(SecretStr(word)).get_secret_value() for word in header.get_secret_value().split())
    return SecretStr(" ".join(words))


Key = Annotated[SecretStr, AfterValidator(_sendable)]
Header = Annotated[SecretStr, AfterValidator(_header)]


class UpstreamSettings(BaseModel):
    """One model server; in the file, an entry of `[[upstreams]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: HttpUrl
    api_key: Key | None = None
    models: tuple[str, ...] = ()


class McpServerSettings(BaseModel):
    """One MCP server, reached by running *command* (stdio) or at *url* (streamable HTTP); an entry of
    `[[mcp_servers]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=32)]
    """Its tools are called `name__tool`."""
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, SecretStr] = Field(default_factory=dict)
    cwd: Path | None = None
    url: HttpUrl | None = None
    headers: Mapping[str, Header] = Field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    """Those that may be called, by their names at the server; None allows all."""
    needs_approval: bool | tuple[str, ...] = False
    """Which of them wait for somebody's approval."""

    @field_validator("needs_approval", mode="plain")
    @classmethod
    def _all_or_names(cls, value: object) -> object:
        if isinstance(value, bool):
            return value
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return tuple(value)
        raise ValueError("needs true, false or a list of names")

    @model_validator(mode="after")
    def _one_transport(self) -> McpServerSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError("needs either a command or a url")
        if self.command is None and (self.args or self.env or self.cwd):
            raise ValueError("args, env and cwd belong to a command")
        if self.url is None and self.headers:
            raise ValueError("headers belong to a url")
        return self
