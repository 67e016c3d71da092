"""API tokens: what gets in, and every way in which something that looks like one doesn't."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from odysseus.accounts import Identity, api_tokens
from odysseus.accounts.api_tokens import ApiTokens, StoredToken, new_token
from odysseus.errors import Unauthorized

NOT_VALID = "the token is not valid"


class MemoryTokens:
    def __init__(self, *tokens: StoredToken) -> None:
        self.tokens = {token.id: token for token in tokens}
        self.asked: list[str] = []

    async def token(self, token_id: str) -> StoredToken | None:
        self.asked.append(token_id)
        return self.tokens.get(token_id)


TEXT, STORED = new_token("alice")
OTHER_TEXT, OTHER = new_token("bob")
REVOKED_TEXT, _revoked = new_token("carol")
REVOKED = replace(_revoked, revoked_at=datetime.now(UTC))
UNKNOWN_TEXT, _ = new_token("dave")
ARABIC_ZERO = "\u0660"
SECRET = TEXT.split("_", 2)[2]


@pytest.fixture
def store() -> MemoryTokens:
    return MemoryTokens(STORED, OTHER, REVOKED)


async def identify(store: MemoryTokens, bearer: str | None, users: Sequence[str] = ()) -> Identity:
    return await ApiTokens(store).identify(bearer, users, "127.0.0.1")


def test_a_new_token() -> None:
    text, stored = new_token("alice")
    prefix, token_id, secret = text.split("_", 2)
    assert (prefix, token_id, len(token_id), len(secret), stored.name) == ("ody", stored.id, 12, 43, "alice")
    assert stored.hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in repr(stored)
    assert abs(stored.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert stored.revoked_at is None
    assert new_token("alice")[0] != text


@pytest.mark.parametrize("name", ["", " alice", "a\nb", "x" * 256, "0123456789ab", "a\0"])
def test_names_that_no_token_has(name: str) -> None:
    with pytest.raises(ValueError, match="the user's name"):
        new_token(name)


async def test_a_token_says_who_it_is(store: MemoryTokens) -> None:
    assert await identify(store, TEXT) == Identity("alice", expires_at=None, token_id=STORED.id)
    assert await identify(store, OTHER_TEXT, users=["alice"]) == Identity("bob", token_id=OTHER.id)


def changed(text: str, place: int) -> str:
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


FORGERIES: dict[str, tuple[str | None, str]] = {
    "none at all": (None, "a token is needed: Authorization: Bearer ody_.."),
    "empty": ("", NOT_VALID),
    "unknown": (UNKNOWN_TEXT, NOT_VALID),
    "revoked": (REVOKED_TEXT, "the token has been revoked"),
    "revoked, with another secret": (f"ody_{REVOKED.id}_{SECRET}", NOT_VALID),
    "the secret of another": (f"ody_{OTHER.id}_{SECRET}", NOT_VALID),
    "another's id": (f"ody_{OTHER.id}_{'A' * 43}", NOT_VALID),
    "the stored hash": (f"ody_{STORED.id}_{STORED.hash}", NOT_VALID),
    "the stored hash, cut": (f"ody_{STORED.id}_{STORED.hash[:43]}", NOT_VALID),
    "first character of the secret": (changed(TEXT, 17), NOT_VALID),
    "last character of the secret": (changed(TEXT, len(TEXT) - 1), NOT_VALID),
    "another case": (f"ody_{STORED.id}_{SECRET.swapcase()}", NOT_VALID),
    "the id in upper case": (f"ody_{'ABCDEF012345'}_{SECRET}", NOT_VALID),
    "the prefix in upper case": (TEXT.replace("ody_", "ODY_"), NOT_VALID),
    "another prefix": (TEXT.replace("ody_", "sk_"), NOT_VALID),
    "no secret": (f"ody_{STORED.id}_", NOT_VALID),
    "no id": (f"ody__{SECRET}", NOT_VALID),
    "only the id": (STORED.id, NOT_VALID),
    "only the secret": (SECRET, NOT_VALID),
    "cut": (TEXT[:-1], NOT_VALID),
    "longer": (f"{TEXT}A", NOT_VALID),
    "huge": (TEXT + "A" * 1_000_000, NOT_VALID),
    "a space before": (f" {TEXT}", NOT_VALID),
    "a line end behind": (f"{TEXT}\n", NOT_VALID),
    "a NUL behind": (f"{TEXT}\0", NOT_VALID),
    "padded": (f"{TEXT}=", NOT_VALID),
    "twice": (f"{TEXT},{TEXT}", NOT_VALID),
    "with its scheme": (f"Bearer {TEXT}", NOT_VALID),
    "digits that aren't ASCII": (f"ody_{ARABIC_ZERO * 12}_{SECRET}", NOT_VALID),
    "letters that aren't ASCII": (f"ody_{STORED.id}_{'é' * 43}", NOT_VALID),
    "bytes that aren't UTF-8": (f"ody_{STORED.id}_{chr(0xDCFF) * 43}", NOT_VALID),
    "SQL": (f"ody_' OR '1'='1_{SECRET}", NOT_VALID),
    "JSON": ('{"id": "x"}', NOT_VALID),
}


@pytest.mark.parametrize(("bearer", "reason"), FORGERIES.values(), ids=FORGERIES)
async def test_forgeries(store: MemoryTokens, bearer: str | None, reason: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        await identify(store, bearer, users=["alice"])
    assert (refused.value.code, str(refused.value)) == ("unauthorized", reason)


async def test_the_store_is_asked_only_for_ids(store: MemoryTokens) -> None:
    """What isn't a token at all costs no query."""
    for bearer, _ in FORGERIES.values():
        with pytest.raises(Unauthorized):
            await identify(store, bearer)
    assert all(len(token_id) == 12 and set(token_id) <= set("0123456789abcdef") for token_id in store.asked)


async def test_an_unknown_id_costs_the_comparison_too(store: MemoryTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, ...]] = []
    compare: Callable[..., bool] = hmac.compare_digest

    def watched(*both: Any) -> bool:
        compared.append(both)
        return compare(*both)

    monkeypatch.setattr(api_tokens.hmac, "compare_digest", watched)
    for bearer in (TEXT, UNKNOWN_TEXT, REVOKED_TEXT):
        try:
            await identify(store, bearer)
        except Unauthorized:
            assert bearer != TEXT
    assert [[len(part) for part in both] for both in compared] == [[64, 64]] * 3
