from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from odysseus.errors import SettingsError
from odysseus.settings import Settings

KEY = "sesame-0123456789"
SECRET = f"{KEY}-{KEY}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("ODYSSEUS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that loads the settings with the environment and the file that it is given."""

    def load(file: str | bytes | None = None, **environment: str) -> Settings:
        if file is not None:
            path = tmp_path / "odysseus.toml"
            path.write_bytes(file if isinstance(file, bytes) else file.encode())
            monkeypatch.setenv("ODYSSEUS_CONFIG", str(path))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Settings.load()

    return load


ONLY_IN_FILE = ("upstreams", "mcp_servers")

DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 8080,
    "data_dir": Path("data"),
    "database_url": None,
    "auth": "none",
    "auth_jwt_secret": None,
    "auth_jwt_jwks": None,
    "auth_jwt_audience": None,
    "auth_jwt_issuer": None,
    "auth_proxy_header": "X-Forwarded-User",
    "trusted_proxies": (),
    "open_to_network": False,
    "secret": None,
    "upstream_url": None,
    "upstream_api_key": None,
    "upstream_models": (),
    "upstreams": (),
    "upstream_connect_s": 10,
    "upstream_silence_s": 120,
    "idle_timeout_s": 900,
    "wall_clock_timeout_s": 7200,
    "tools": ("calculator", "current_time", "search_sessions"),
    "tools_need_approval": (),
    "mcp_servers": (),
    "max_tool_rounds": 25,
    "max_round_calls": 32,
    "max_parallel_tools": 8,
    "max_tool_output_chars": 32_000,
    "tool_timeout_s": 60,
    "approval_timeout_s": 300,
    "max_log_bytes": 32 * 1024 * 1024,
    "max_runs": 1000,
    "max_subscribers": 20_000,
    "max_body_bytes": 4 * 1024 * 1024,
    "replay_grace_s": 180,
    "pane_expiry_s": 60,
    "ping_interval_s": 10,
    "send_timeout_s": 20,
    "drain_s": 10,
}


def test_defaults(load: Any) -> None:
    """DESIGN, section 3, "Settings"."""
    values = dict(load())
    assert {name: values[name] for name in DEFAULTS} == DEFAULTS
    assert load().model_servers() == ()


@pytest.mark.parametrize("empty", [name for name in DEFAULTS if name not in ONLY_IN_FILE])
def test_an_empty_variable_is_none(load: Any, empty: str) -> None:
    assert getattr(load(**{f"ODYSSEUS_{empty.upper()}": ""}), empty) == DEFAULTS[empty]


OTHERS: dict[str, Any] = {
    name: default + 1 if isinstance(default, int | float) else "http://x/v1"
    for name, default in DEFAULTS.items()
    if not isinstance(default, tuple | bool)
} | {
    "host": "::1",
    "auth": "jwt",
    "auth_jwt_secret": SECRET,
    "auth_proxy_header": "Remote-User",
    "open_to_network": True,
    "secret": SECRET,
}  # fmt: skip
NEEDS = {  # what a line of the file can't stand without
    "upstream_api_key": "upstream_url = 'http://y/v1'\n",
    "auth": f"auth_jwt_secret = '{SECRET}'\n",
    "auth_jwt_secret": "auth = 'jwt'\n",
    "auth_jwt_jwks": "auth = 'jwt'\n",
    "auth_jwt_audience": f"auth = 'jwt'\nauth_jwt_secret = '{SECRET}'\n",
    "auth_jwt_issuer": f"auth = 'jwt'\nauth_jwt_secret = '{SECRET}'\n",
}


def test_every_setting_has_a_variable(load: Any) -> None:
    others = {name: value for name, value in OTHERS.items() if name != "auth_jwt_jwks"}  # instead of the secret
    settings = load(**{f"ODYSSEUS_{name.upper()}": str(value) for name, value in others.items()})
    assert {name: getattr(settings, name) for name in others if isinstance(DEFAULTS[name], int)} == {
        name: value for name, value in others.items() if isinstance(DEFAULTS[name], int)
    }
    assert [name for name in others if getattr(settings, name) == DEFAULTS[name]] == []


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_has_a_line_in_the_file(load: Any, name: str) -> None:
    needs = NEEDS.get(name, "")
    value = str(OTHERS[name]).lower() if isinstance(OTHERS[name], bool) else repr(OTHERS[name])
    settings = load(f"{needs}{name} = {value}")
    assert getattr(settings, name) != DEFAULTS[name]
    assert len(settings.model_fields_set) == 1 + needs.count("\n")


@pytest.mark.parametrize("names", ["m,n,o", " m, n,,o ,", ["m", "n", "o"]])
def test_names_of_models(load: Any, names: str | list[str]) -> None:
    assert load(f"upstream_url = 'http://x/v1'\nupstream_models = {names!r}").upstream_models == ("m", "n", "o")
    if isinstance(names, str):
        assert load("port = 1", ODYSSEUS_UPSTREAM_URL="http://x", ODYSSEUS_UPSTREAM_MODELS=names).upstream_models == (
            "m", "n", "o"
        )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "tools"),
    [("calculator , fetch_url,", ("calculator", "fetch_url")), ("none", ()), ("", DEFAULTS["tools"])],
)
def test_names_of_tools(load: Any, names: str, tools: tuple[str, ...]) -> None:
    assert load(ODYSSEUS_TOOLS=names).tools == tools
    assert load(ODYSSEUS_TOOLS_NEED_APPROVAL="calculator").tools_need_approval == ("calculator",)
    assert load("tools = []", ODYSSEUS_TOOLS=names).tools == tools or not names


def test_mcp_servers(load: Any) -> None:
    file = f"""
        [[mcp_servers]]
        name = "files"
        command = "npx"
        args = ["-y", "server"]
        env = {{TOKEN = "{KEY}"}}
        cwd = "/srv"
        tools = ["read", "write"]
        needs_approval = ["write"]
        [[mcp_servers]]
        name = "web_search-2"
        url = "https://mcp.example/mcp"
        headers = {{Authorization = "Bearer {KEY}"}}
        needs_approval = true
    """
    settings = load(file)
    files, search = settings.mcp_servers
    assert (files.command, files.args, files.cwd) == ("npx", ("-y", "server"), Path("/srv"))
    assert (files.tools, files.needs_approval) == (("read", "write"), ("write",))
    assert files.env["TOKEN"].get_secret_value() == KEY
    assert (str(search.url), search.tools, search.needs_approval) == ("https://mcp.example/mcp", None, True)
    assert search.headers["Authorization"].get_secret_value() == f"Bearer {KEY}"
    assert KEY not in repr(settings)


def test_the_environment_goes_before_the_file(load: Any) -> None:
    settings = load("port = 1\nhost = '::1'\nupstream_models = ['x']\nupstream_url = 'http://h/v1'", ODYSSEUS_PORT="2")
    assert (settings.port, settings.host, settings.upstream_models) == (2, "::1", ("x",))


def test_names_of_variables_may_be_written_in_lower_case(load: Any) -> None:
    assert load(odysseus_port="1").port == 1


def test_model_servers(load: Any) -> None:
    """That of the environment comes first."""
    file = f"""
        [[upstreams]]
        name = "a"
        url = "http://a/v1"
        api_key = "{KEY}"
        models = ["m", "n"]
        [[upstreams]]
        name = "b"
        url = "https://b:8443/v1"
    """
    settings = load(file, ODYSSEUS_UPSTREAM_URL="http://c/v1", ODYSSEUS_UPSTREAM_API_KEY=KEY)
    told = [(server.name, str(server.url), server.models) for server in settings.model_servers()]
    assert told == [
        ("default", "http://c/v1", ()),
        ("a", "http://a/v1", ("m", "n")),
        ("b", "https://b:8443/v1", ()),
    ]
    keys = [server.api_key and server.api_key.get_secret_value() for server in settings.model_servers()]
    assert keys == [KEY, KEY, None]
    assert KEY not in repr(settings) and KEY not in str(settings.model_servers())


def test_they_are_frozen(load: Any) -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.port = 1


def test_the_table_of_the_readme() -> None:
    """Every setting has its line, with its default and a meaning."""
    head, rule, *rows = Settings.markdown().splitlines()
    assert (head, rule) == ("| setting | default | meaning |", "|---|---|---|")
    told = {}
    for row in rows:
        setting, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        assert meaning
        told[setting.split("`")[1]] = default.strip("`").removesuffix(".0")
    shown = {name: name if name in ONLY_IN_FILE else f"ODYSSEUS_{name.upper()}" for name in Settings.model_fields}
    assert set(told) == set(shown.values())
    for name, value in DEFAULTS.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        assert told[shown[name]] == (",".join(value) if isinstance(value, tuple) else "" if value is None else text)


# Refusals


def refusal(load: Any, file: str | bytes | None, environment: Mapping[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as refused:
        load(file, **environment)
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)
    assert str(refused.value) == f"{refused.value.setting}: {refused.value.problem}"
    return refused.value


WRONG: list[tuple[str, str, str]] = [
    *(("PORT", value, "integer") for value in ("abc", "1.5", "8080x", "a\nb")),
    ("PORT", "-1", "greater than or equal to 0"),
    ("PORT", "65536", "less than or equal to 65535"),
    *(
        (name, value, "(got")
        for name in ("UPSTREAM_CONNECT_S", "UPSTREAM_SILENCE_S", "IDLE_TIMEOUT_S", "WALL_CLOCK_TIMEOUT_S",
                     "REPLAY_GRACE_S", "PANE_EXPIRY_S", "PING_INTERVAL_S", "SEND_TIMEOUT_S", "TOOL_TIMEOUT_S",
                     "APPROVAL_TIMEOUT_S")
        for value in ("soon", "0", "-1", "nan", "inf", "1e9")
    ),
    *(
        (name, value, "(got")
        for name in ("MAX_LOG_BYTES", "MAX_RUNS", "MAX_SUBSCRIBERS", "MAX_BODY_BYTES", "MAX_TOOL_ROUNDS",
                     "MAX_ROUND_CALLS", "MAX_PARALLEL_TOOLS", "MAX_TOOL_OUTPUT_CHARS")
        for value in ("many", "0", "-1", "1.5", "1e3")
    ),
    *(("DRAIN_S", value, "(got") for value in ("soon", "-1", "nan")),
    *(("UPSTREAM_URL", value, "(got") for value in ("host/v1", "ftp://host", "http://", "http://host:99999")),
    ("UPSTREAM_API_KEY", KEY, "is set, but ODYSSEUS_UPSTREAM_URL isn't"),
    ("UPSTREAM_MODELS", "m", "is set, but ODYSSEUS_UPSTREAM_URL isn't"),
    *(("TOOLS", value, "calculator") for value in ("calc", "calculator,none", "fetch-url")),
    ("TOOLS_NEED_APPROVAL", "files__write", "calculator"),
    ("PROT", "1", "no such setting; did you mean ODYSSEUS_PORT?"),
    ("UPSTREAM_KEY", "1", "no such setting; did you mean ODYSSEUS_UPSTREAM"),
    ("QQQ", "", "no such setting"),
    ("CONFIG", "/nowhere/odysseus.toml", "/nowhere/odysseus.toml can't be read: No such file or directory"),
    ("CONFIG", "/", "/ can't be read: Is a directory"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_variable_is_named(load: Any, name: str, value: str, problem: str) -> None:
    error = refusal(load, None, {f"ODYSSEUS_{name}": value})
    assert error.setting == f"ODYSSEUS_{name}"
    assert problem in error.problem


def server(**values: Any) -> str:
    """Return an entry of `[[upstreams]]`; None leaves a value out, the rest is TOML already."""
    entry = {"name": '"a"', "url": '"http://a/v1"', "api_key": f'"{KEY}"'} | values
    return "[[upstreams]]\n" + "".join(f"{name} = {value}\n" for name, value in entry.items() if value is not None)


def mcp(**values: Any) -> str:
    entry = {"name": '"a"', "command": '"true"'} | values
    return "[[mcp_servers]]\n" + "".join(f"{name} = {value}\n" for name, value in entry.items() if value is not None)


@pytest.mark.parametrize(
    ("file", "setting", "problem"),
    [
        ("port = 'x'", "port", "integer"),
        ("port = -1", "port", "greater than or equal to 0"),
        ("port = [1]", "port", "integer"),
        ("[port]\nx = 1", "port", "integer"),
        ("data_dir = 5", "data_dir", "path"),
        ("prot = 1", "prot", "no such setting; did you mean port?"),
        ("PORT = 1", "PORT", "no such setting"),
        ("[odysseus]\nport = 1", "odysseus", "no such setting"),
        ("upstream_models = [1]\nupstream_url = 'http://a'", "upstream_models.0", "string"),
        (f"upstream_api_key = ['{KEY}']\nupstream_url = 'http://a'", "upstream_api_key", "string"),
        ("upstreams = 'a'", "upstreams", "tuple"),
        ("upstreams = ['a']", "upstreams.0", "dictionary"),
        (server(url="'a'"), "upstreams.0.url", "URL"),
        (server(models="'m'"), "upstreams.0.models", "tuple"),
        (server(modles="['m']"), "upstreams.0.modles", "no such setting"),
        (server() + server(), "upstreams", "two of them have the same name"),
        (server(name="'default'") + "[x]", "x", "no such setting"),
        (server(url=None), "upstreams.0.url", "required"),
        (server(name=None), "upstreams.0.name", "required"),
        (server(api_key=f"['{KEY}']"), "upstreams.0.api_key", "string"),
        ("tools = ['calc']", "tools.0", "calculator"),
        (mcp(command=None), "mcp_servers.0", "needs either a command or a url"),
        (mcp(url="'http://a/mcp'"), "mcp_servers.0", "needs either a command or a url"),
        (mcp(command=None, url="'http://a'", args="['x']"), "mcp_servers.0", "args, env and cwd belong to a command"),
        (mcp(headers="{A = 'b'}"), "mcp_servers.0", "headers belong to a url"),
        (mcp(name="'a b'"), "mcp_servers.0.name", "pattern"),
        (mcp(name="'a__b'"), "mcp_servers.0.name", "pattern"),
        (mcp(command=None, url="'a'"), "mcp_servers.0.url", "URL"),
        (mcp(command=None, url="'http://a'", headers=f"{{A = '{KEY}ä'}}"), "mcp_servers.0.headers.A", "can't be sent"),
        (mcp(env=f"{{A = ['{KEY}']}}"), "mcp_servers.0.env.A", "string"),
        (mcp(needs_approval="5"), "mcp_servers.0.needs_approval", "needs true, false or a list of names"),
        (mcp() + mcp(), "mcp_servers", "two of them have the same name"),
        ("port = ", "ODYSSEUS_CONFIG", "odysseus.toml isn't TOML: "),
        ("port = 1\nport = 2", "ODYSSEUS_CONFIG", "odysseus.toml isn't TOML: "),
        (b"host = '\xff'", "ODYSSEUS_CONFIG", "odysseus.toml isn't TOML"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_the_file_is_named(load: Any, file: str | bytes, setting: str, problem: str) -> None:
    error = refusal(load, file, {})
    assert error.setting == setting
    assert problem in error.problem


def test_two_servers_of_one_name(load: Any) -> None:
    error = refusal(load, server(name="'default'"), {"ODYSSEUS_UPSTREAM_URL": "http://b/v1"})
    assert (error.setting, error.problem) == ("upstreams", "two of them have the same name")


def test_servers_in_the_environment(load: Any) -> None:
    assert refusal(load, None, {"ODYSSEUS_UPSTREAMS": "a"}).setting == "ODYSSEUS_UPSTREAMS"


def test_a_key_that_no_header_can_hold(load: Any) -> None:
    """As a file with a line end at its end gives it."""
    try:
        settings = load(ODYSSEUS_UPSTREAM_URL="http://a/v1", ODYSSEUS_UPSTREAM_API_KEY=f"{KEY}\n")
    except SettingsError:
        return
    assert settings.upstream_api_key.get_secret_value() == KEY
