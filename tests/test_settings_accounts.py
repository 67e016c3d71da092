"""The settings that say who may use the service, and from where."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests import test_settings
from tests.test_settings import KEY, SECRET, refusal

load, _clean_environment = test_settings.load, test_settings._clean_environment

NETWORKS = (ip_network("10.0.0.0/8"), ip_network("127.0.0.1/32"), ip_network("2001:db8::/32"), "unix")


@pytest.mark.parametrize(
    "proxies",
    [
        "10.0.0.0/8,127.0.0.1,2001:db8::/32,unix",
        " 10.0.0.0/8 , 127.0.0.1,,2001:DB8::/32,unix, ",
        ["10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32", "unix"],
    ],
)
def test_trusted_proxies(load: Any, proxies: str | list[str]) -> None:
    assert load(f"trusted_proxies = {proxies!r}").trusted_proxies == NETWORKS
    if isinstance(proxies, str):
        assert load("port = 1", ODYSSEUS_TRUSTED_PROXIES=proxies).trusted_proxies == NETWORKS


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("https://app.example.com", ("https://app.example.com",)),
        (" http://localhost:3000 ,https://[::1]:8443, ", ("http://localhost:3000", "https://[::1]:8443")),
        ("HTTPS://App.Example.com:443,http://x:80", ("https://app.example.com", "http://x")),  # as browsers say it
        ("https://bücher.example", ("https://xn--bcher-kva.example",)),
        ("", ()),
    ],
)
def test_cors_origins(load: Any, given: str, origins: tuple[str, ...]) -> None:
    assert load(ODYSSEUS_CORS_ORIGINS=given).cors_origins == origins
    assert load(f"cors_origins = {given!r}").cors_origins == origins
    assert load(f"cors_origins = {list(origins)}").cors_origins == origins


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_this_machine_needs_no_accounts(load: Any, host: str) -> None:
    assert load(ODYSSEUS_HOST=host).host == host


FAR = [
    "0.0.0.0",
    "::",
    "192.0.2.1",
    "10.0.0.1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "odysseus.example",
    "localhost.",
    "127.1",
]


@pytest.mark.parametrize("host", FAR)
def test_the_network_needs_accounts_or_an_explicit_word(load: Any, host: str) -> None:
    error = refusal(load, None, {"ODYSSEUS_HOST": host})
    assert error.setting == "ODYSSEUS_HOST"
    for way in (host, "ODYSSEUS_AUTH", "token", "jwt", "proxy", "ODYSSEUS_OPEN_TO_NETWORK"):
        assert way in error.problem
    assert refusal(load, None, {"ODYSSEUS_OPEN_TO_NETWORK": "false"}).setting == "ODYSSEUS_HOST"
    assert load(ODYSSEUS_OPEN_TO_NETWORK="true").host == host
    assert load(ODYSSEUS_OPEN_TO_NETWORK="", ODYSSEUS_AUTH="token").host == host


def test_where_the_database_is(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load().database() == f"sqlite:///{tmp_path}/data/odysseus.db"
    assert load(ODYSSEUS_DATABASE_URL="postgresql://h/n").database() == "postgresql://h/n"


def test_secrets_are_not_shown(load: Any) -> None:
    settings = load(ODYSSEUS_AUTH="jwt", ODYSSEUS_AUTH_JWT_SECRET=SECRET, ODYSSEUS_SECRET=SECRET)
    assert (settings.secret.get_secret_value(), settings.auth_jwt_secret.get_secret_value()) == (SECRET, SECRET)
    assert KEY not in repr(settings) and KEY not in str(settings)


HOOK = {"ODYSSEUS_WEBHOOK_URL": "https://hooks.example/x"}


@pytest.mark.parametrize(
    ("secret", "key"),
    [(SECRET, SECRET.encode()), ("ü" * 32, "ü".encode() * 32), (f"whsec_{'QUJD' * 8}", b"ABC" * 8)],
)
def test_what_a_webhook_is_signed_with(load: Any, secret: str, key: bytes) -> None:
    settings = load(ODYSSEUS_WEBHOOK_SECRET=secret, **HOOK)
    assert settings.webhook_key() == key
    assert secret not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "setting", "problem"),
    [
        (HOOK, "URL", "is set, but ODYSSEUS_WEBHOOK_SECRET isn't"),
        ({"ODYSSEUS_WEBHOOK_SECRET": SECRET}, "SECRET", "is set, but ODYSSEUS_WEBHOOK_URL isn't"),
        (HOOK | {"ODYSSEUS_WEBHOOK_SECRET": KEY}, "SECRET", "needs at least 32 characters"),
        (HOOK | {"ODYSSEUS_WEBHOOK_SECRET": "whsec_" + "x" * 31}, "SECRET", "needs base64 after whsec_"),
        (HOOK | {"ODYSSEUS_WEBHOOK_SECRET": "whsec_" + "-" * 32}, "SECRET", "needs base64 after whsec_"),
        ({"ODYSSEUS_WEBHOOK_URL": "ftp://x", "ODYSSEUS_WEBHOOK_SECRET": SECRET}, "URL", "http"),
    ],
)
def test_half_a_webhook(load: Any, environment: dict[str, str], setting: str, problem: str) -> None:
    error = refusal(load, None, environment)
    assert error.setting == f"ODYSSEUS_WEBHOOK_{setting}"
    assert problem in error.problem
    assert KEY not in str(error)


WRONG: list[tuple[str, str, str]] = [
    *(("AUTH", value, "'none', 'token', 'jwt' or 'proxy'") for value in ("None", "basic", "token,jwt", "true")),
    ("AUTH", "jwt", "jwt needs either ODYSSEUS_AUTH_JWT_SECRET or ODYSSEUS_AUTH_JWT_JWKS"),
    ("AUTH", "proxy", "proxy needs ODYSSEUS_TRUSTED_PROXIES"),
    *(
        (name, value, "is set, but ODYSSEUS_AUTH isn't jwt")
        for name, value in (("AUTH_JWT_SECRET", SECRET), ("AUTH_JWT_JWKS", "/x"), ("AUTH_JWT_AUDIENCE", "x"),
                            ("AUTH_JWT_ISSUER", "x"))
    ),
    *((name, KEY, "needs at least 32 characters") for name in ("AUTH_JWT_SECRET", "SECRET")),
    *(("AUTH_PROXY_HEADER", value, "pattern") for value in ("X User", "X-User:", "X-User\n", "Ü")),
    *(("TRUSTED_PROXIES", value, f"needs addresses, networks such as 10.0.0.0/8, or unix: {problem}")
      for value, problem in (("proxy.example", "'proxy.example' "), ("127.0.0.1, 10.0.0.1/8", "10.0.0.1/8 has host"),
                             ("10.0.0.0/33", "'10.0.0.0/33' "), ("UNIX", "'UNIX' "), ("*", "'*' "))),
    *(("CORS_ORIGINS", f"https://app.example.com,{value}", f"without a path, not {value!r}")
      for value in ("https://app.example.com/", "https://x/y", "app.example.com", "ftp://x", "null", "https://",
                    "https://u:p@x", "https://x?y", "https://x#y", "https://a b")),
    *(("CORS_ORIGINS", value, f"not {value!r}: each must be named") for value in ("*", "https://*.example.com")),
    *(("CORS_ORIGINS", value, f"not {value!r}: input should") for value in ("https://x:99999", "https://[::1")),
    *(("OPEN_TO_NETWORK", value, "boolean") for value in ("maybe", "2")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_variable_is_named(load: Any, name: str, value: str, problem: str) -> None:
    error = refusal(load, None, {f"ODYSSEUS_{name}": value})
    assert error.setting == f"ODYSSEUS_{name}"
    assert problem in error.problem


@pytest.mark.parametrize(
    ("file", "setting", "problem"),
    [
        (f"secret = ['{KEY}']", "secret", "string"),
        (f"secret = '{KEY}'", "secret", "needs at least 32 characters"),
        ("trusted_proxies = [5]", "trusted_proxies", "'5'"),
        ("trusted_proxies = 5", "trusted_proxies", "tuple"),
        ("trusted_proxies = ['x']", "trusted_proxies", "'x'"),
        ("cors_origins = [5]", "cors_origins", "not 5"),
        ("cors_origins = 5", "cors_origins", "tuple"),
        ("auth = 'jwt'\nauth_jwt_issuer = ''", "auth_jwt_issuer", "at least 1"),
        (f"auth = 'jwt'\nauth_jwt_secret = '{SECRET}'\nauth_jwt_jwks = '/x'", "ODYSSEUS_AUTH", "jwt needs either"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_the_file_is_named(load: Any, file: str, setting: str, problem: str) -> None:
    error = refusal(load, file, {})
    assert error.setting == setting
    assert problem in error.problem
