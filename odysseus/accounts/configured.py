"""Which accounts the settings ask for."""

from __future__ import annotations

from odysseus.accounts import Accounts, NoAccounts
from odysseus.accounts.api_tokens import ApiTokens, TokenStore
from odysseus.accounts.proxies import ProxyUsers, TrustedProxies
from odysseus.settings import Settings

__all__ = ["configured_accounts"]


def configured_accounts(settings: Settings, tokens: TokenStore) -> Accounts:
    """Return what `AUTH` names. Raises `SettingsError` if a file it needs can't be used."""
    match settings.auth:
        case "none":
            return NoAccounts()
        case "token":
            return ApiTokens(tokens)
        case "proxy":
            return ProxyUsers(TrustedProxies(settings.trusted_proxies))
        case "jwt":
            return _json_web_tokens(settings)


def _json_web_tokens(settings: Settings) -> Accounts:
    # Imported only here: cryptography takes a tenth of a second.
    from odysseus.accounts.json_web_tokens import JsonWebTokens
    from odysseus.accounts.keys import KeyFile, shared_secret

    audience, issuer = settings.auth_jwt_audience, settings.auth_jwt_issuer
    if settings.auth_jwt_secret is not None:
        key = shared_secret(settings.auth_jwt_secret.get_secret_value())
        return JsonWebTokens(lambda _kid: key, audience=audience, issuer=issuer)
    assert settings.auth_jwt_jwks is not None, "the settings demand one of the two"
    return JsonWebTokens(KeyFile(settings.auth_jwt_jwks).key, audience=audience, issuer=issuer)
