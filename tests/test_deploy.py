"""What `deploy/` says, beside what the code does: stop limits, names of settings, files that must agree."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import gunicorn.config
import pytest
import yaml

import odysseus.store.database as database
import odysseus.store.store as store
from odysseus import application, webhook
from odysseus.errors import SettingsError
from odysseus.settings import Settings
from odysseus.tools import mcp
from odysseus.upstream import client

REPOSITORY = Path(__file__).parent.parent
DEPLOY = REPOSITORY / "deploy"
UNIT = (DEPLOY / "odysseus.service").read_text()
DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCUMENT = (REPOSITORY / "docs" / "deploy.md").read_text()
NODES = ("odysseus", "odysseus-2")
KNOWN = {f"ODYSSEUS_{name.upper()}" for name in Settings.model_fields} | {"ODYSSEUS_CONFIG"}


def program(name: str) -> str:
    """Return where *name* is: beside our Python, or in the path."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    return found or missing(name)


def missing(name: str) -> NoReturn:
    reason = f"{name} isn't installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def call(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def unit(key: str) -> str:
    """Return the only value that the unit gives *key*."""
    [value] = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def instructions() -> list[tuple[str, str]]:
    """Return what the Dockerfile says, each instruction in one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", "").splitlines()
    return [(name, value.strip()) for name, _, value in (line.partition(" ") for line in whole if line)]


def instruction(name: str) -> str:
    """Return the last one of this *name*, which is the one that counts."""
    return [value for other, value in instructions() if other == name][-1]


def image_environment() -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in instruction("ENV").split())


# How long a stop takes


def longest_stop_s(drain_s: float) -> float:
    """Return what a stop takes where everything waits until its limit."""
    last_wait_s = 1  # of `Tasks.drain` and others, for what they have cancelled
    ends = (mcp._CLOSE_S, application._SAVES_S, client._LINGER_S, webhook._CLOSE_S, store._BATCH_S, database._CLOSE_S)
    return (
        drain_s + application._SAVES_S + 2 * application._CONNECTIONS_S + sum(limit_s + last_wait_s for limit_s in ends)
    )


def gunicorn_settings() -> dict[str, Any]:
    return runpy.run_path(str(DEPLOY / "gunicorn.conf.py"))


def test_whoever_stops_it_waits_long_enough() -> None:
    longest_s = longest_stop_s(Settings.model_fields["drain_s"].default)
    assert int(unit("TimeoutStopSec")) > longest_s
    assert int(SERVICES["odysseus"]["stop_grace_period"].removesuffix("s")) > longest_s
    assert {int(limit) for limit in re.findall(r"(?:--stop-timeout|GracePeriodSeconds:) (\d+)", DOCUMENT)} == {
        int(unit("TimeoutStopSec"))
    }
    for text in (UNIT, DOCUMENT):
        assert f" {longest_s:g} s" in text, "the sum in words is another one"


@pytest.mark.parametrize("drain_s", [0.5, 10, 300])
def test_gunicorn_waits_long_enough(monkeypatch: pytest.MonkeyPatch, drain_s: float) -> None:
    monkeypatch.setenv("ODYSSEUS_DRAIN_S", str(drain_s))
    settings = gunicorn_settings()
    notices_s = 1  # until the worker looks whether it shall go
    assert settings["graceful_timeout"] > notices_s + longest_stop_s(drain_s)
    assert settings["timeout"] > settings["graceful_timeout"]
    if drain_s <= Settings.model_fields["drain_s"].default:
        assert settings["graceful_timeout"] < int(unit("TimeoutStopSec"))


# gunicorn


@pytest.mark.parametrize(("host", "bind"), [("127.0.0.1", "127.0.0.1:8081"), ("::1", "[::1]:8081")])
def test_gunicorn_listens_where_the_settings_say(monkeypatch: pytest.MonkeyPatch, host: str, bind: str) -> None:
    monkeypatch.setenv("ODYSSEUS_HOST", host)
    monkeypatch.setenv("ODYSSEUS_PORT", "8081")
    settings = gunicorn_settings()
    assert (settings["bind"], settings["workers"]) == (bind, 1)


def test_gunicorn_knows_its_settings() -> None:
    imported = {"SettingsError", "Settings", "annotations", "configuration", "sys"}
    names = {name for name in gunicorn_settings() if not name.startswith("_")} - imported
    assert names - {setting.name for setting in gunicorn.config.KNOWN_SETTINGS} == set()


def test_gunicorn_ends_with_one_line_that_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODYSSEUS_DRAIN_S", "soon")
    with pytest.raises(SystemExit, match=r"^odysseus: ODYSSEUS_DRAIN_S: .*'soon'"):
        gunicorn_settings()


# The unit


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "odysseus.service"
    command = unit("ExecStart").split()[0]
    copy.write_text(UNIT.replace(f"ExecStart={command}", f"ExecStart={sys.executable}"))  # it must be there
    analyze = program("systemd-analyze")
    assert call(analyze, "verify", str(copy)) == (0, "")  # a key it doesn't know is only a line of text
    code, report = call(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(copy))
    assert code == 0, report


def test_a_drain_keeps_its_tools() -> None:
    assert (unit("KillMode"), unit("KillSignal")) == ("mixed", "SIGTERM")


def test_there_are_enough_file_descriptors() -> None:
    """One a subscriber and one a run; some stay for the database, files and MCP servers."""
    needed = Settings.model_fields["max_subscribers"].default + Settings.model_fields["max_runs"].default
    assert int(unit("LimitNOFILE")) > 2 * needed
    assert SERVICES["odysseus"]["ulimits"]["nofile"] == int(unit("LimitNOFILE"))


# The image


def test_a_linter_takes_the_dockerfile() -> None:
    assert call(program("hadolint"), "--failure-threshold=info", str(DOCKERFILE)) == (0, "")


def test_the_image_is_made_of_files_that_are_there() -> None:
    """The wheel that is made of them is tested with the processes."""
    sources = {name for name, _ in copied()}
    assert all((REPOSITORY / name).exists() for name in sources)
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == sources
    assert ignore[1] == "*"


def copied() -> list[tuple[str, str]]:
    """Return what goes from the repository into the image, and where to."""
    pairs = []
    for name, value in instructions():
        if name == "COPY":
            *sources, target = value.split()
            pairs += [(source, target) for source in sources]
    return pairs


def test_what_the_image_runs() -> None:
    assert json.loads(instruction("CMD")) == ["odysseus", "serve"]
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instruction("USER"))
    environment = image_environment()
    assert instruction("VOLUME") == environment["ODYSSEUS_DATA_DIR"]
    assert instruction("EXPOSE") == environment["ODYSSEUS_PORT"]


def test_the_image_alone_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in image_environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="ODYSSEUS_AUTH"):
        Settings.load()


# compose


def filled_in(value: str) -> str:
    """Do what compose does with `${NAME:-default}` and `${NAME:?what is missing}`."""
    return re.sub(r"\$\{\w+:([-?])([^}]*)\}", lambda found: found[2] if found[1] == "-" else "filled-in", value)


def test_compose_starts_what_the_image_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start must get past its settings; it also gets those of .env, which are the operator's."""
    service = SERVICES["odysseus"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DOCKERFILE)
    for name, value in (image_environment() | service["environment"]).items():
        monkeypatch.setenv(name, filled_in(value))
    settings = Settings.load()
    assert settings.auth != "none"
    assert [str(proxy) for proxy in settings.trusted_proxies] == [f"{address('nginx')}/32"]
    assert settings.database_url == "postgresql://odysseus:filled-in@postgres/odysseus"
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "odysseus"
    assert f"data:{settings.data_dir}" in service["volumes"]


def address(service: str) -> str:
    return str(SERVICES[service]["networks"]["edge"]["ipv4_address"])


def test_compose_opens_nginx_alone() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"nginx"}
    assert {name for name, service in SERVICES.items() if "edge" in service["networks"]} == {"nginx", *NODES}
    assert COMPOSE["networks"]["store"]["internal"] is True
    network = COMPOSE["networks"]["edge"]["ipam"]["config"][0]["subnet"].removesuffix("0/24")
    assert address("nginx").startswith(network)
    assert all(address(node).startswith(network) for node in NODES)
    assert len({address(name) for name in ("nginx", *NODES)}) == 3


def test_compose_bounds_and_watches_everything() -> None:
    for name, service in SERVICES.items():
        assert {"cpus", "mem_limit", "pids_limit", "restart"} <= set(service), name
        assert "healthcheck" in service or name in NODES, name  # they have the image's
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("/") or source in COMPOSE["volumes"] or (DEPLOY / source).exists(), volume
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"valkey", "odysseus-2"}
    for service in SERVICES.values():  # who needs one of a profile must do without it
        for needed, how in service.get("depends_on", {}).items():
            assert how.get("required", True) != ("profiles" in SERVICES[needed])


@pytest.mark.parametrize("nodes", [("odysseus",), ("odysseus", "odysseus-2")])
def test_compose_changes_nothing_of_nginx_but_the_addresses(nodes: tuple[str, ...]) -> None:
    service = SERVICES["nginx"]
    assert filled_in(service["environment"]["NODES"]) == "odysseus"
    edit = service["command"][-1].partition(" > ")[0].replace("/etc/odysseus/nginx.conf", str(DEPLOY / "nginx.conf"))
    before = (DEPLOY / "nginx.conf").read_text()
    code, after = call("env", f"NODES={' '.join(nodes)}", "sh", "-c", edit.replace("$$", "$"))
    assert code == 0
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    [(old, new)] = [(old, new) for old, new in lines if old != new]
    port = image_environment()["ODYSSEUS_PORT"]
    servers = "".join(f"server {node}:{port}; " for node in nodes)
    assert old.replace(f"server 127.0.0.1:{port};", servers) == new


def test_the_second_node_differs_in_nothing_but_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (SERVICES[node] for node in NODES)
    own = {"profiles", "volumes", "networks"}
    assert {name for name in {*first, *second} if first.get(name) != second.get(name)} == own
    lines = re.search(r"COMPOSE_PROFILES=several-nodes.*?```", DOCUMENT, re.DOTALL)
    assert lines is not None
    said = dict(re.findall(r'echo "(\w+)=([^"]*)"', lines[0]))
    assert said["ODYSSEUS_REDIS_URL"] == "redis://valkey:6379/0"
    for name, value in (image_environment() | second["environment"] | said).items():
        monkeypatch.setenv(name, filled_in(value).replace("$(openssl rand -hex 24)", "x" * 48))
    settings = Settings.load()
    assert settings.redis_url == said["ODYSSEUS_REDIS_URL"]
    assert int(second["stop_grace_period"].removesuffix("s")) > longest_stop_s(settings.drain_s)


# Names


def test_every_setting_that_is_named_exists() -> None:
    """One that doesn't ends the start."""
    ours = [
        *(DEPLOY / name for name in ("Dockerfile", "compose.yaml", "gunicorn.conf.py")),
        *(REPOSITORY / "docs" / name for name in ("deploy.md", "scale.md")),
    ]
    named = {
        name for text in (UNIT, *(path.read_text() for path in ours)) for name in re.findall(r"\bODYSSEUS_\w+", text)
    }
    assert named - KNOWN == set()
