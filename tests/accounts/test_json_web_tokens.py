"""JSON Web Tokens: forgeries, each with its answer, against a shared secret and against a file of public keys."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from odysseus.accounts import Identity
from odysseus.accounts.json_web_tokens import JsonWebTokens
from odysseus.accounts.keys import KeyFile, shared_secret
from odysseus.errors import Unauthorized
from tests.accounts.forge import (
    SECRET,
    EcKey,
    RsaKey,
    b64,
    claims,
    ec_jwk,
    es256,
    hs256,
    none,
    rs256,
    rsa_jwk,
    write_keys,
)

NOT_VALID = "the token is not valid"
LETTERS = "the user's name must be printable, and have at most 255 characters"
NOW = int(time.time())
DEEP = "[" * 1500 + "]" * 1500
HUGE_NUMBER = f'{{"alg": {"9" * 5000}}}'


async def identify(accounts: JsonWebTokens, token: str | None) -> Identity:
    return await accounts.identify(token, ["mallory"], "127.0.0.1")


async def refusal(accounts: JsonWebTokens, token: str | None) -> str:
    with pytest.raises(Unauthorized) as refused:
        await identify(accounts, token)
    return str(refused.value)


# A shared secret


def shared(*, audience: str | None = None, issuer: str | None = None) -> JsonWebTokens:
    key = shared_secret(SECRET)
    return JsonWebTokens(lambda _kid: key, audience=audience, issuer=issuer)


@pytest.mark.parametrize(
    "token",
    [
        hs256(claims()),
        hs256(claims(), typ=None),
        hs256(claims(), kid="whatever"),
        hs256(claims(iat=NOW, nbf=NOW, jti="1", scope="all", groups=["a"])),
        hs256(claims(iss="anybody")),
        hs256(claims(exp=NOW + 3600.5)),
        hs256(claims(iat=NOW + 3, nbf=NOW + 3)),
    ],
)
async def test_good_tokens(token: str) -> None:
    identity = await identify(shared(), token)
    assert (identity.owner, identity.token_id) == ("alice", None)
    assert identity.expires_at is not None
    assert abs(identity.expires_at.timestamp() - NOW - 3610) < 30, "the claim, and the leeway"


async def test_the_leeway_is_small_and_counts_for_streams_too() -> None:
    """Who is let in because of the leeway isn't thrown out at once."""
    identity = await identify(shared(), hs256(claims(exp=int(time.time()) - 4)))
    assert identity.expires_at is not None and identity.expires_at > datetime.now(UTC)


@pytest.mark.parametrize("owner", ["Zoë", "auth0|1", "\U0001f600", "x" * 255])
async def test_owners(owner: str) -> None:
    assert (await identify(shared(), hs256(claims(sub=owner)))).owner == owner


async def test_of_two_claims_of_one_name_the_last_counts() -> None:
    """RFC 7519, section 4: refuse them, or take the last. Only who holds the key can make them."""
    twice = f'{{"sub": "bob", "sub": "alice", "exp": {NOW + 3600}}}'
    assert (await identify(shared(), hs256(twice))).owner == "alice"


def payload_changed(token: str, **changed: Any) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{b64(claims(**changed))}.{signature}"


def signed_with(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{b64(signature)}"


GOOD = hs256(claims())
FORGED: dict[str, tuple[str | None, str]] = {
    "none at all": (None, "a token is needed: Authorization: Bearer .."),
    "empty": ("", NOT_VALID),
    "an API token": (f"ody_{'0' * 12}_{'A' * 43}", NOT_VALID),
    # Algorithms
    "alg none": (none(claims()), NOT_VALID),
    "alg none, with a signature": (none(claims(), "AAAA"), NOT_VALID),
    "alg none, with the right one": (none(claims(), GOOD.split(".")[2]), NOT_VALID),
    "alg None": (hs256(claims(), alg="None"), NOT_VALID),
    "alg NONE": (hs256(claims(), alg="NONE"), NOT_VALID),
    "alg empty": (hs256(claims(), alg=""), NOT_VALID),
    "no alg": (hs256(claims(), alg=None), NOT_VALID),
    "alg in lower case": (hs256(claims(), alg="hs256"), NOT_VALID),
    "alg HS512": (hs256(claims(), alg="HS512"), NOT_VALID),
    "alg HS512, rightly signed so": (hs256(claims(), digest="sha512", alg="HS512"), NOT_VALID),
    "alg RS256": (hs256(claims(), alg="RS256"), NOT_VALID),
    "alg a list": (hs256(claims(), alg=["HS256"]), NOT_VALID),
    "alg a number": (hs256(claims(), alg=5), NOT_VALID),
    "alg an object": (hs256(claims(), alg={"HS256": 1}), NOT_VALID),
    # Keys and signatures
    "another secret": (hs256(claims(), key="x" * 32), NOT_VALID),
    "an empty secret": (hs256(claims(), key=""), NOT_VALID),
    "the secret cut": (hs256(claims(), key=SECRET[:-1]), NOT_VALID),
    "the secret in upper case": (hs256(claims(), key=SECRET.upper()), NOT_VALID),
    "the payload changed": (payload_changed(GOOD, sub="bob"), NOT_VALID),
    "the header changed": (f"{b64({'alg': 'HS256'})}.{GOOD.split('.', 1)[1]}", NOT_VALID),
    "the signature changed": (f"{GOOD.rpartition('.')[0]}.{'A' * 43}", NOT_VALID),
    "the signature cut": (GOOD[:-1], NOT_VALID),
    "the signature longer": (f"{GOOD}AAAA", NOT_VALID),
    "no signature": (GOOD.rpartition(".")[0] + ".", NOT_VALID),
    "no third part": (GOOD.rpartition(".")[0], NOT_VALID),
    "only a header": (GOOD.split(".")[0], NOT_VALID),
    "four parts": (f"{GOOD}.AAAA", NOT_VALID),
    "five parts, as if encrypted": (f"{GOOD}.AAAA.AAAA", NOT_VALID),
    "the signature of another": (f"{GOOD.rpartition('.')[0]}.{hs256(claims(sub='bob')).split('.')[2]}", NOT_VALID),
    "a key in the header": (
        hs256(claims(), key="x" * 32, jwk={"kty": "oct", "k": b64("x" * 32)}),
        NOT_VALID,
    ),
    # Headers
    "a kid that is a number": (hs256(claims(), kid=5), NOT_VALID),
    "a kid that is a list": (hs256(claims(), kid=[]), NOT_VALID),
    "crit": (hs256(claims(), crit=["exp"], exp=1), NOT_VALID),
    "b64 false": (hs256(claims(), b64=False, crit=["b64"]), NOT_VALID),
    "a header that is a list": (f"{b64([])}.{b64(claims())}.AAAA", NOT_VALID),
    "a header that isn't JSON": (f"{b64('alg')}.{b64(claims())}.AAAA", NOT_VALID),
    "a header that isn't UTF-8": (f"{b64(bytes([0xFF]) * 9)}.{b64(claims())}.AAAA", NOT_VALID),
    "a header nested deeply": (f"{b64(DEEP)}.{b64(claims())}.AAAA", NOT_VALID),
    "a header with a huge number": (f"{b64(HUGE_NUMBER)}.e30.AAAA", NOT_VALID),
    # Characters
    "a space before": (f" {GOOD}", NOT_VALID),
    "a line end behind": (f"{GOOD}\n", NOT_VALID),
    "a line end inside": (GOOD[:9] + "\n" + GOOD[9:], NOT_VALID),
    "base64 that isn't for URLs": (GOOD[:9] + "+/" + GOOD[9:], NOT_VALID),
    "padded": (f"{GOOD}=", NOT_VALID),
    "characters that aren't ASCII": (GOOD.replace(".", "\u2024"), NOT_VALID),
    "bytes that aren't UTF-8": (f"{GOOD}\udcff", NOT_VALID),
    "huge": (hs256(claims(x="x" * 8192)), "the token is longer than 8192 characters"),
    "huge, and nothing else": ("." * 10_000_000, "the token is longer than 8192 characters"),
}  # fmt: skip


@pytest.mark.parametrize(("token", "reason"), FORGED.values(), ids=FORGED)
async def test_forgeries(token: str | None, reason: str) -> None:
    assert await refusal(shared(), token) == reason


# What a token can say that its maker shouldn't have signed, or not for us.
SIGNED: dict[str, tuple[Any, str]] = {
    "expired": (claims(exp=NOW - 60), "the token has expired"),
    "expired long ago": (claims(exp=0), "the token has expired"),
    "expired before time began": (claims(exp=-(10**12)), "the token has expired"),
    "no exp": (claims(exp=None), "the token has no exp"),
    "exp null": ({"sub": "alice", "exp": None}, "the token has no exp"),
    "exp a text": (claims(exp=str(NOW + 3600)), NOT_VALID),
    "exp in words": (claims(exp="tomorrow"), NOT_VALID),
    "exp true": (f'{{"sub": "alice", "exp": true, "x": {NOW}}}', "the token has expired"),
    "exp a list": (claims(exp=[NOW + 3600]), NOT_VALID),
    "exp infinite": ('{"sub": "alice", "exp": 1e400}', NOT_VALID),
    "exp Infinity": ('{"sub": "alice", "exp": Infinity}', NOT_VALID),
    "exp NaN": ('{"sub": "alice", "exp": NaN}', NOT_VALID),
    "exp in the year 20000": (claims(exp=10**12), NOT_VALID),
    "exp beyond every calendar": (claims(exp=10**30), NOT_VALID),
    "exp in the year of no machine": (claims(exp=6.8e16), NOT_VALID),
    "not yet valid": (claims(nbf=NOW + 600), "the token is not valid yet"),
    "made in the future": (claims(iat=NOW + 600), "the token is not valid yet"),
    "nbf a text": (claims(nbf="soon"), NOT_VALID),
    "nbf infinite": (f'{{"sub": "alice", "exp": {NOW + 3600}, "nbf": 1e400}}', NOT_VALID),
    "iat in words": (claims(iat="yesterday"), NOT_VALID),
    "no sub": (claims(sub=None), "the token has no sub"),
    "sub null": ({"sub": None, "exp": NOW + 3600}, "the token has no sub"),
    "sub empty": (claims(sub=""), "the user's name is empty, or not a plain text"),
    "sub a space": (claims(sub=" "), "the user's name is empty, or not a plain text"),
    "sub a number": (claims(sub=5), None),
    "sub a list": (claims(sub=["alice"]), None),
    "sub an object": (claims(sub={"name": "alice"}), None),
    "sub true": (claims(sub=True), None),
    "sub too long": (claims(sub="x" * 256), LETTERS),
    "sub with a line end": (claims(sub="alice\nbob"), LETTERS),
    "sub with a NUL": (claims(sub="alice\0"), LETTERS),
    "sub with half a character": (f'{{"sub": "a\\ud800", "exp": {NOW + 3600}}}', LETTERS),
    "no claims": ({}, "the token has no exp"),
    "claims that are a list": ([claims()], NOT_VALID),
    "claims that are a text": ('"alice"', NOT_VALID),
    "claims that aren't JSON": ("sub=alice", NOT_VALID),
    "claims nested deeply": (DEEP, NOT_VALID),
    "for an audience, where none is set": (claims(aud="other"), "the token is for another audience"),
}  # fmt: skip


@pytest.mark.parametrize(("payload", "reason"), SIGNED.values(), ids=SIGNED)
async def test_what_is_signed_and_yet_refused(payload: Any, reason: str | None) -> None:
    told = await refusal(shared(), hs256(payload))
    assert told in (NOT_VALID, "the user's name is empty, or not a plain text") if reason is None else told == reason


US = {"aud": "odysseus", "iss": "https://id.example"}


@pytest.mark.parametrize("changed", [{}, {"aud": ["other", "odysseus"]}])
async def test_audience_and_issuer(changed: dict[str, Any]) -> None:
    accounts = shared(audience=US["aud"], issuer=US["iss"])
    assert (await identify(accounts, hs256(claims(**US | changed)))).owner == "alice"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"aud": None}, "the token has no aud"),
        ({"aud": ""}, "the token has no aud"),
        ({"aud": []}, "the token has no aud"),
        ({"aud": "other"}, "the token is for another audience"),
        ({"aud": "Odysseus"}, "the token is for another audience"),
        ({"aud": "odysseus2"}, "the token is for another audience"),
        ({"aud": "odysse"}, "the token is for another audience"),
        ({"aud": ["other"]}, "the token is for another audience"),
        ({"aud": ["odysseus", 5]}, "the token is for another audience"),
        ({"aud": {"odysseus": 1}}, "the token is for another audience"),
        ({"iss": None}, "the token has no iss"),
        ({"iss": "https://id.example/"}, "the token is from another issuer"),
        ({"iss": "https://id.example.evil"}, "the token is from another issuer"),
        ({"iss": "https://id"}, "the token is from another issuer"),
        ({"iss": ["https://id.example"]}, "the token is from another issuer"),
    ],
)
async def test_another_audience_and_another_issuer(changed: dict[str, Any], reason: str) -> None:
    assert await refusal(shared(audience=US["aud"], issuer=US["iss"]), hs256(claims(**US | changed))) == reason


async def test_what_is_wrong_is_told_only_to_who_can_sign() -> None:
    for payload, _ in SIGNED.values():
        assert await refusal(shared(), hs256(payload, key="x" * 32)) == NOT_VALID


@given(
    st.text() | st.lists(st.binary(max_size=40), min_size=1, max_size=4).map(lambda parts: ".".join(map(b64, parts)))
)
async def test_nonsense_is_refused_and_breaks_nothing(token: str) -> None:
    await refusal(shared(), token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON), claim=JSON)
async def test_headers_and_claims_of_any_kind_break_nothing(header: dict[str, Any], claim: Any) -> None:
    for name in ("exp", "nbf", "iat", "sub", "aud", "iss", "jti"):
        try:
            await identify(shared(), hs256(claims(**{name: claim}), **header))
        except Unauthorized:
            pass


# A file of public keys


@dataclass
class Ring:
    """Keys, of which `first` (RSA) and `second` (EC) are in the file, `nameless` (EC) is there without a name."""

    first: RsaKey
    second: EcKey
    nameless: EcKey
    foreign_rsa: RsaKey
    foreign_ec: EcKey
    accounts: JsonWebTokens

    def first_pem(self) -> bytes:
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return self.first.public_key().public_bytes(*form)


def new_rsa(bits: int = 2048) -> RsaKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def new_ec() -> EcKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    path: Path = tmp_path_factory.mktemp("keys") / "jwks.json"
    first, second, nameless = new_rsa(), new_ec(), new_ec()
    write_keys(path, rsa_jwk(first, kid="first"), ec_jwk(second, kid="second", alg="ES256"), ec_jwk(nameless))
    accounts = JsonWebTokens(KeyFile(path).key, audience=None, issuer=None)
    return Ring(first, second, nameless, new_rsa(), new_ec(), accounts)


Make = Callable[[Ring], str]

RIGHT: dict[str, Make] = {
    "RS256": lambda ring: rs256(claims(), ring.first, kid="first"),
    "ES256": lambda ring: es256(claims(), ring.second, kid="second"),
    "without a kid": lambda ring: es256(claims(), ring.nameless),
    "with somebody else's key in the header": lambda ring: rs256(
        claims(), ring.first, kid="first", jwk=rsa_jwk(ring.foreign_rsa), jku="http://127.0.0.1:9/", x5u="http://x/"
    ),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
async def test_good_tokens_of_keys(ring: Ring, make: Make) -> None:
    assert (await identify(ring.accounts, make(ring))).owner == "alice"


WRONG: dict[str, Make] = {
    "alg none": lambda ring: none(claims(), kid="first"),
    "HS256 with the public key, as PEM": lambda ring: hs256(claims(), key=ring.first_pem(), kid="first"),
    "HS256 with the public key, as PEM without its last line end": lambda ring: hs256(
        claims(), key=ring.first_pem().strip(), kid="first"
    ),
    "HS256 with the public key, as JWK": lambda ring: hs256(
        claims(), key=json.dumps(rsa_jwk(ring.first, kid="first")), kid="first"
    ),
    "HS256 with the modulus": lambda ring: hs256(claims(), key=rsa_jwk(ring.first)["n"], kid="first"),
    "HS256 with an empty secret": lambda ring: hs256(claims(), key="", kid="first"),
    "signed with RS256, said to be HS256": lambda ring: rs256(claims(), ring.first, kid="first", alg="HS256"),
    "signed with RS256, said to be PS256": lambda ring: rs256(claims(), ring.first, kid="first", alg="PS256"),
    "signed with RS256, said to be RS512": lambda ring: rs256(claims(), ring.first, kid="first", alg="RS512"),
    "signed with RS512": lambda ring: rs256(claims(), ring.first, hashes.SHA512(), kid="first", alg="RS512"),
    "signed with RS256, said to be ES256": lambda ring: rs256(claims(), ring.first, kid="first", alg="ES256"),
    "signed with ES256, said to be RS256": lambda ring: es256(claims(), ring.second, kid="second", alg="RS256"),
    "signed with ES256, said to be ES256K": lambda ring: es256(claims(), ring.second, kid="second", alg="ES256K"),
    "RS256 with the kid of an EC key": lambda ring: rs256(claims(), ring.first, kid="second"),
    "ES256 with the kid of an RSA key": lambda ring: es256(claims(), ring.second, kid="first"),
    "ES256 with the kid of none": lambda ring: es256(claims(), ring.second),
    "a foreign RSA key": lambda ring: rs256(claims(), ring.foreign_rsa, kid="first"),
    "a foreign EC key": lambda ring: es256(claims(), ring.foreign_ec, kid="second"),
    "a foreign key that comes along": lambda ring: rs256(
        claims(), ring.foreign_rsa, kid="first", jwk=rsa_jwk(ring.foreign_rsa, kid="first")
    ),
    "a foreign key without a kid that comes along": lambda ring: es256(
        claims(), ring.foreign_ec, jwk=ec_jwk(ring.foreign_ec)
    ),
    "a foreign key at an address": lambda ring: rs256(claims(), ring.foreign_rsa, kid="f", jku="http://127.0.0.1:9/"),
    "a signature of zeros": lambda ring: signed_with(es256(claims(), ring.second, kid="second"), bytes(64)),
    "a signature of a byte": lambda ring: signed_with(es256(claims(), ring.second, kid="second"), bytes(1)),
    "the payload changed": lambda ring: payload_changed(rs256(claims(), ring.first, kid="first"), sub="bob"),
    "an unknown kid": lambda ring: rs256(claims(), ring.first, kid="third"),
    "a kid in upper case": lambda ring: rs256(claims(), ring.first, kid="FIRST"),
    "a kid with a space": lambda ring: rs256(claims(), ring.first, kid="first "),
    "an empty kid": lambda ring: es256(claims(), ring.nameless, kid=""),
    "a kid that is null in a text": lambda ring: es256(claims(), ring.nameless, kid="null"),
    "a kid that is a path": lambda ring: hs256(claims(), key="", kid="../../../../../../dev/null"),
    "a kid that is SQL": lambda ring: hs256(claims(), key="x", kid="' UNION SELECT 'x' --"),
    "a kid that is a list": lambda ring: rs256(claims(), ring.first, kid=["first"]),
    "a kid that is an object": lambda ring: rs256(claims(), ring.first, kid={"first": 1}),
    "a kid that is a number": lambda ring: rs256(claims(), ring.first, kid=1),
    "a kid that is true": lambda ring: rs256(claims(), ring.first, kid=True),
}  # fmt: skip


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
async def test_forged_keys(ring: Ring, make: Make) -> None:
    assert await refusal(ring.accounts, make(ring)) == NOT_VALID


async def test_claims_count_with_keys_too(ring: Ring) -> None:
    token = rs256(claims(exp=NOW - 60), ring.first, kid="first")
    assert await refusal(ring.accounts, token) == "the token has expired"
