"""The settings: one frozen value, read once, from environment variables and a TOML file.

A name that doesn't exist and a value that can't be used end the start with one line that says which.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from odysseus.errors import SettingsError
from odysseus.server_settings import Key, McpServerSettings, UpstreamSettings

__all__ = ["Settings"]

_PREFIX = "ODYSSEUS_"
_CONFIG = f"{_PREFIX}CONFIG"
_ONLY_IN_FILE = frozenset({"upstreams", "mcp_servers"})
_BASE64 = "whsec_"
_SECRET_CHARS = 32  # as many bytes as HS256 signs with


def _unguessable(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < _SECRET_CHARS:
        raise ValueError(f"needs at least {_SECRET_CHARS} characters")
    return secret


def _proxies(value: object) -> object:
    """Return the addresses and networks that *value* names. Raises `ValueError` with the one that is wrong."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(proxy if proxy == "unix" else _network(proxy) for proxy in value)


def _network(proxy: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(proxy))  # a number would be an address, too
    except ValueError as error:
        raise ValueError(f"needs addresses, networks such as 10.0.0.0/8, or unix: {error}") from None


def _origins(value: object) -> object:
    """Return the origins that *value* names, as browsers write them. Raises `ValueError` with the one that is wrong."""
    return tuple(map(_origin, value)) if isinstance(value, list | tuple) else value


def _origin(entry: object) -> str:
    if not isinstance(entry, str) or not re.fullmatch(r"https?://[^/?#@*\\\s]+", entry, re.IGNORECASE):
        any_of = ": each must be named, because their requests may bring a cookie" if "*" in str(entry) else ""
        raise ValueError(f"needs origins such as https://app.example.com, without a path, not {entry!r}{any_of}")
    try:
        return str(HttpUrl(entry)).rstrip("/")  # in lower case, without a default port
    except ValidationError as error:
        raise ValueError(f"needs origins such as https://app.example.com, not {entry!r}: {_reason(error)}") from None


def _reason(error: ValidationError) -> str:
    message = error.errors()[0]["msg"]
    return f"{message[0].lower()}{message[1:]}"


Seconds = Annotated[float, Field(gt=0, le=10_000_000)]
Count = Annotated[int, Field(ge=1)]
Secret = Annotated[SecretStr, AfterValidator(_unguessable)]
Names = Annotated[tuple[str, ...], NoDecode]
BuiltIn = Literal["calculator", "current_time", "fetch_url", "search_sessions"]
Tools = Annotated[tuple[BuiltIn, ...], NoDecode]
Proxies = Annotated[tuple[IPv4Network | IPv6Network | Literal["unix"], ...], NoDecode, BeforeValidator(_proxies)]

Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]


class Settings(BaseSettings):
    """Units stand in the names: `_s` is seconds, `_bytes` bytes. Defaults and meanings make the README's table."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    data_dir: Path = Field(Path("data"), description="folder of the database and of answers the database didn't take")
    database_url: str | None = Field(
        None,
        description="`sqlite:///file` or `postgresql://user:password@host/name`; SQLite in the data folder if unset",
    )
    redis_url: str | None = Field(
        None,
        description="makes this process one of several nodes, which share the runs by this Redis: `redis://host:6379/0`,"
        " also `rediss://`, `unix://`, `redis+sentinel://host,host/master`, `redis+cluster://host,host`; needs"
        " PostgreSQL and `SECRET`; see docs/scale.md",
    )
    redis_required: bool = Field(
        False, description="start no run while Redis is away; else they start, and other nodes see them when it is back"
    )
    lease_s: Seconds = Field(
        10, description="a node that is silent for so long is dead; the others end its runs, `node_lost`"
    )
    auth: Literal["none", "token", "jwt", "proxy"] = Field(
        "none",
        description="who may use the service: `none` asks nobody, `token` wants API tokens (`odysseus token add NAME`),"
        " `jwt` JSON web tokens, `proxy` believes a header of trusted proxies",
    )
    auth_jwt_secret: Secret | None = Field(
        None,
        description="what HS256 tokens are signed with, at least 32 characters; `jwt` needs it, or else a JWKS file",
    )
    auth_jwt_jwks: Path | None = Field(
        None, description="file of the public keys of RS256 and ES256 tokens; read again when it changes"
    )
    auth_jwt_audience: str | None = Field(
        None, min_length=1, description="the `aud` that tokens must have; unset: they must have none"
    )
    auth_jwt_issuer: str | None = Field(None, min_length=1, description="the `iss` that tokens must have; unset: any")
    auth_proxy_header: str = Field(
        "X-Forwarded-User",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="where the proxy names the user; it must remove what clients send under this name",
    )
    trusted_proxies: Proxies = Field(
        (),
        description="addresses and networks, comma-separated, whose `X-Forwarded-*` headers are believed;"
        " `unix` for a Unix socket",
    )
    open_to_network: bool = Field(
        False, description="listen beyond this machine although `AUTH` is `none`, so that anybody may do anything"
    )
    cors_origins: Origins = Field(
        (),
        description="other origins, comma-separated, such as `https://app.example.com`, whose pages may use the API,"
        " also with the cookie",
    )
    webhook_url: HttpUrl | None = Field(
        None, description="is told of each run that has ended; how it ended, never what was said"
    )
    webhook_secret: Secret | None = Field(
        None,
        description="what the webhook is signed with, at least 32 characters; after `whsec_` it is base64",
    )
    secret: Secret | None = Field(
        None,
        description="what watch links are signed with, at least 32 characters, the same on all nodes; unset: made once,"
        " in the data folder",
    )
    upstream_url: HttpUrl | None = Field(
        None, description="an OpenAI-compatible model server, up to and with `/v1`; unset: the demo model"
    )
    upstream_api_key: Key | None = Field(None, description="its key")
    upstream_models: Names = Field((), description="its models, comma-separated, the default first; unset: it is asked")
    upstreams: tuple[UpstreamSettings, ...] = Field(
        (), description="more model servers; in the file: `[[upstreams]]` with `name`, `url`, `api_key`, `models`"
    )
    upstream_connect_s: Seconds = Field(10, description="limit for connecting; then `upstream_unreachable`")
    upstream_silence_s: Seconds = Field(120, description="limit between two bytes; then `upstream_timeout`")
    idle_timeout_s: Seconds = Field(900, description="a run without any frame for so long is stopped, `idle_timeout`")
    wall_clock_timeout_s: Seconds = Field(7200, description="a run is stopped after so long, `wall_clock_timeout`")
    unattended_limit_s: Seconds | None = Field(
        None, description="a detached run that nobody has watched for so long is stopped, `unattended`; unset: none is"
    )
    tools: Tools = Field(
        ("calculator", "current_time", "search_sessions"),
        description="built-in tools of agent mode, comma-separated, or `none`; `fetch_url` (public web pages) is off",
    )
    tools_need_approval: Tools = Field((), description="those of them that wait for somebody's approval")
    mcp_servers: tuple[McpServerSettings, ...] = Field(
        (),
        description="MCP servers; in the file: `[[mcp_servers]]` with `name` and either `command`, `args`, `env`, `cwd`"
        " or `url`, `headers`; `tools` names those that may be called, `needs_approval` is true or a list of names",
    )
    max_tool_rounds: Count = Field(25, description="a model that calls tools so often ends, `tool_rounds`")
    max_round_calls: Count = Field(32, description="calls at once that are run; the model is told of the others")
    max_parallel_tools: Count = Field(8, description="tools of a run that work side by side")
    max_tool_output_chars: Count = Field(32_000, description="a longer result is cut, with a mark")
    tool_timeout_s: Seconds = Field(60, description="a tool that takes longer is stopped; the model is told")
    approval_timeout_s: Seconds = Field(300, description="a call that nobody approves for so long is denied")
    max_log_bytes: Count = Field(32 * 1024 * 1024, description="a run whose frames exceed it is stopped, `log_limit`")
    max_runs: Count = Field(1000, description="live runs at once; then 503 `too_many_runs`")
    max_runs_per_owner: Count = Field(100, description="an account's live runs at once; then 429 `too_many_runs`")
    requests_per_minute: Count = Field(600, description="of an account; then 429 `too_many_requests`")
    max_queued: Count = Field(10, description="runs that wait in a session's line; then 429 `too_many_queued_runs`")
    max_subscribers: Count = Field(20_000, description="subscribers at once; then 503 `too_many_subscribers`")
    max_subscribers_per_run: Count = Field(5000, description="of one run; then 429 `too_many_subscribers`")
    max_body_bytes: Count = Field(4 * 1024 * 1024, description="a longer request body is answered 413")
    replay_grace_s: Seconds = Field(180, description="how long an ended run's frames are kept for replay")
    pane_expiry_s: Seconds = Field(60, description="a compare pane not started for so long is answered 404")
    ping_interval_s: Seconds = Field(
        10, description="at most between two comments that keep a stream's connection alive"
    )
    send_timeout_s: Seconds = Field(20, description="a client that takes nothing for so long is dropped")
    log_format: Literal["text", "json"] = Field("text", description="of the log: `text` or `json`, a record a line")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged, and above")
    log_messages: bool = Field(
        False,
        description="log what was said, too: the beginning of each ended run's message and answer,"
        " and what model servers refuse it with",
    )
    drain_s: float = Field(10, ge=0, description="at SIGTERM: how long live runs may go on before they are stopped")

    @classmethod
    def load(cls) -> Settings:
        """Read the environment, and the file that `ODYSSEUS_CONFIG` names. Raises `SettingsError`."""
        known = {f"{_PREFIX}{name.upper()}" for name in cls.model_fields if name not in _ONLY_IN_FILE} | {_CONFIG}
        for name in os.environ:
            if name.upper().startswith(_PREFIX) and name.upper() not in known:
                raise SettingsError(name, f"no such setting{_meant(name.upper(), known)}")
        try:
            return cls()
        except ValidationError as error:
            raise _settings_error(error) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _File(settings_cls)

    @field_validator(
        "upstream_models", "tools", "tools_need_approval", "trusted_proxies", "cors_origins", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("tools", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return () if value == "none" else value

    @model_validator(mode="after")
    def _upstream_is_whole(self) -> Settings:
        for name in ("upstream_api_key", "upstream_models"):
            if getattr(self, name) and self.upstream_url is None:
                raise SettingsError(_PREFIX + name.upper(), f"is set, but {_PREFIX}UPSTREAM_URL isn't")
        for setting, named in (("upstreams", self.model_servers()), ("mcp_servers", self.mcp_servers)):
            names = [entry.name for entry in named]
            if len(set(names)) < len(names):
                raise SettingsError(setting, "two of them have the same name")
        return self

    @model_validator(mode="after")
    def _nodes_share_a_database(self) -> Settings:
        if self.redis_url is not None and not self.database().startswith("postgresql"):
            needed = f"is for several nodes, which need one database: set {_PREFIX}DATABASE_URL to postgresql://.."
            raise SettingsError(f"{_PREFIX}REDIS_URL", needed)
        if self.redis_url is not None and self.secret is None:
            needed = f"is for several nodes, which read each other's watch links: set {_PREFIX}SECRET, on all the same"
            raise SettingsError(f"{_PREFIX}REDIS_URL", needed)
        if self.redis_required and self.redis_url is None:
            raise SettingsError(f"{_PREFIX}REDIS_REQUIRED", f"is set, but {_PREFIX}REDIS_URL isn't")
        return self

    @model_validator(mode="after")
    def _accounts_are_whole(self) -> Settings:
        for name in ("auth_jwt_secret", "auth_jwt_jwks", "auth_jwt_audience", "auth_jwt_issuer"):
            if getattr(self, name) and self.auth != "jwt":
                raise SettingsError(_PREFIX + name.upper(), f"is set, but {_PREFIX}AUTH isn't jwt")
        auth = f"{_PREFIX}AUTH"
        if self.auth == "jwt" and (self.auth_jwt_secret is None) == (self.auth_jwt_jwks is None):
            raise SettingsError(auth, f"jwt needs either {auth}_JWT_SECRET or {auth}_JWT_JWKS")
        if self.auth == "proxy" and not self.trusted_proxies:
            raise SettingsError(auth, f"proxy needs {_PREFIX}TRUSTED_PROXIES, or nobody's word would be good")
        return self

    @model_validator(mode="after")
    def _open_on_purpose(self) -> Settings:
        if self.auth == "none" and not self.open_to_network and not _is_loopback(self.host):
            ways = f"set {_PREFIX}AUTH to token, jwt or proxy, or {_PREFIX}OPEN_TO_NETWORK to true"
            raise SettingsError(f"{_PREFIX}HOST", f"{self.host} lets in other machines, without any accounts: {ways}")
        return self

    @model_validator(mode="after")
    def _webhook_is_whole(self) -> Settings:
        if (self.webhook_url is None) != (self.webhook_secret is None):
            missing, there = ("URL", "SECRET") if self.webhook_url is None else ("SECRET", "URL")
            raise SettingsError(f"{_PREFIX}WEBHOOK_{there}", f"is set, but {_PREFIX}WEBHOOK_{missing} isn't")
        try:
            self.webhook_key()
        except ValueError:
            raise SettingsError(f"{_PREFIX}WEBHOOK_SECRET", f"needs base64 after {_BASE64}") from None
        return self

    def webhook_key(self) -> bytes:
        """Return the bytes to sign with; none if there is no webhook. Source: Standard Webhooks, "Signature scheme"."""
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if secret.startswith(_BASE64):
            return b64decode(secret.removeprefix(_BASE64), validate=True)
        return secret.encode()

    def database(self) -> str:
        """Return the URL of the database: the setting, or that of the file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute()}/odysseus.db"

    def model_servers(self) -> Sequence[UpstreamSettings]:
        """Return every model server, that of the environment first, as `default`."""
        if self.upstream_url is None:
            return self.upstreams
        first = UpstreamSettings(
            name="default", url=self.upstream_url, api_key=self.upstream_api_key, models=self.upstream_models
        )
        return (first, *self.upstreams)

    @classmethod
    def markdown(cls) -> str:
        """Return the README's table."""
        return "\n".join(cls._rows())

    @classmethod
    def _rows(cls) -> Iterator[str]:
        yield "| setting | default | meaning |"
        yield "|---|---|---|"
        for name, field in cls.model_fields.items():
            value = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            value = str(value).lower() if isinstance(value, bool) else value
            default = "" if value in (None, "") else f"`{value}`"
            shown = f"`{name}`, only in the file" if name in _ONLY_IN_FILE else f"`{_PREFIX}{name.upper()}`"
            yield f"| {shown} | {default} | {field.description} |"


class _File(PydanticBaseSettingsSource):
    """The TOML file named by `ODYSSEUS_CONFIG`, with the settings' names in lower case."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the file is handed over whole, so that a name it has too much is noticed

    def __call__(self) -> dict[str, Any]:
        path = os.environ.get(_CONFIG)
        if not path:
            return {}
        try:
            with open(path, "rb") as file:
                return tomllib.load(file)
        except OSError as error:
            raise SettingsError(_CONFIG, f"{path} can't be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(_CONFIG, f"{path} isn't TOML: {error}") from error


def _is_loopback(host: str) -> bool:
    """Tell if only this machine reaches *host*. Of another name than localhost nobody knows."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _settings_error(error: ValidationError) -> SettingsError:
    first = error.errors()[0]
    name, *inner = [str(part) for part in first["loc"]] or ["settings"]
    setting = f"{_PREFIX}{name.upper()}" if f"{_PREFIX}{name.upper()}" in os.environ else ".".join((name, *inner))
    if first["type"] == "extra_forbidden":
        return SettingsError(setting, f"no such setting{_meant(name, set(Settings.model_fields))}")
    secret = any(word in part for part in (name, *inner) for word in ("key", "secret", "env", "headers"))
    shown = isinstance(first["input"], str | int | float) and not secret
    got = f" (got {str(first['input'])!r})" if shown else ""
    return SettingsError(setting, f"{_reason(error)}{got}")


def _meant(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
