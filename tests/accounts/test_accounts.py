"""What every kind of account shares, and which kind the settings ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from odysseus.accounts import NOBODY, Identity, NoAccounts, checked_owner
from odysseus.accounts.api_tokens import ApiTokens, StoredToken
from odysseus.accounts.configured import configured_accounts
from odysseus.accounts.json_web_tokens import JsonWebTokens
from odysseus.accounts.proxies import ProxyUsers
from odysseus.errors import SettingsError, Unauthorized
from odysseus.settings import Settings
from tests.accounts.forge import SECRET, claims, hs256


@pytest.mark.parametrize(
    "name", ["a", "alice@example.org", "Zoë Müller", "Ω", "x" * 255, "auth0|5f7c", "CN=Alice, O=Odysseus", "\U0001f600"]
)
def test_names_that_owners_have(name: str) -> None:
    assert checked_owner(name) == name


@pytest.mark.parametrize(
    "name",
    [
        None, 5, True, b"alice", ["alice"], {"name": "alice"}, "", " ", "\t", " alice", "alice ", "x" * 256,
        "alice\n", "alice\r\nX-Other: 1", "a\0b", "a\x1b[31mb", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "a\u200bb",
        "\ufeffalice", "a\ud800b", "a\u00a0b", "a\ue000b",
    ],
)  # fmt: skip
def test_names_that_no_owner_has(name: object) -> None:
    with pytest.raises(Unauthorized) as refused:
        checked_owner(name)
    assert str(refused.value).isprintable(), "what is said of a name doesn't hold it"


async def test_without_accounts_everybody_is_nobody() -> None:
    assert await NoAccounts().identify("ody_000000000000_x", ["alice"], "203.0.113.9") == Identity(NOBODY)
    with pytest.raises(Unauthorized):
        checked_owner(NOBODY)


class NoTokens:
    async def token(self, token_id: str) -> StoredToken | None:
        return None


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("ODYSSEUS_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, NoAccounts),
        ({"auth": "token"}, ApiTokens),
        ({"auth": "jwt", "auth_jwt_secret": SECRET}, JsonWebTokens),
        ({"auth": "proxy", "trusted_proxies": "127.0.0.1"}, ProxyUsers),
    ],
)
def test_the_settings_name_the_kind(settings: dict[str, Any], kind: type) -> None:
    assert type(configured_accounts(Settings(**settings), NoTokens())) is kind


async def test_the_settings_of_web_tokens_count() -> None:
    settings = Settings(auth="jwt", auth_jwt_secret=SECRET, auth_jwt_audience="odysseus", auth_jwt_issuer="us")
    accounts = configured_accounts(settings, NoTokens())
    assert (await accounts.identify(hs256(claims(aud="odysseus", iss="us")), [], None)).owner == "alice"
    for wrong in ({"aud": "odysseus"}, {"iss": "us"}, {"aud": "odysseus", "iss": "them"}, {"aud": "them", "iss": "us"}):
        with pytest.raises(Unauthorized):
            await accounts.identify(hs256(claims(**wrong)), [], None)


async def test_the_settings_of_proxies_count() -> None:
    accounts = configured_accounts(Settings(auth="proxy", trusted_proxies="10.0.0.0/8"), NoTokens())
    assert (await accounts.identify(None, ["alice"], "10.1.2.3")).owner == "alice"
    with pytest.raises(Unauthorized):
        await accounts.identify(None, ["alice"], "127.0.0.1")


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        configured_accounts(Settings(auth="jwt", auth_jwt_jwks=tmp_path / "jwks.json"), NoTokens())
    assert refused.value.setting == "ODYSSEUS_AUTH_JWT_JWKS"
    assert refused.value.problem == f"{tmp_path}/jwks.json can't be used: No such file or directory"


def test_a_shared_secret_that_is_a_public_key() -> None:
    """Everybody knows it, so everybody could sign."""
    pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
    with pytest.raises(SettingsError) as refused:
        configured_accounts(Settings(auth="jwt", auth_jwt_secret=pem), NoTokens())
    assert refused.value.setting == "ODYSSEUS_AUTH_JWT_SECRET"
