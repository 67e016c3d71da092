"""The file of public keys: what it may hold, and what happens when it changes under the service."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from odysseus.accounts.keys import KeyFile
from odysseus.errors import SettingsError
from tests.accounts.forge import ec_jwk, rsa_jwk, write_keys

EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P384 = {**ec_jwk(EC, kid="p384"), "crv": "P-384"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as refused:
        KeyFile(path)
    assert refused.value.setting == "ODYSSEUS_AUTH_JWT_JWKS"
    assert "\n" not in str(refused.value)
    return refused.value.problem.removeprefix(f"{path} can't be used: ")


def test_the_key_decides_the_algorithm(path: Path) -> None:
    write_keys(path, rsa_jwk(RSA, kid="r"), ec_jwk(EC, kid="e", use="sig", alg="ES256"), ec_jwk(OTHER))
    keys = KeyFile(path)
    found = {kid: keys.key(kid) for kid in ("r", "e", None, "x")}
    names = {kid: key and key.algorithm_name for kid, key in found.items()}
    assert names == {"r": "RS256", "e": "ES256", None: "ES256", "x": None}


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "oct", "k": "AAAA", "kid": "x"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "x"},
        {"kty": "new", "kid": "x"},
        {"kid": "x"},
        {"kty": ["RSA"], "kid": "x"},
        {**P384, "kid": "x"},
        rsa_jwk(RSA, kid="x", alg="RS512"),
        rsa_jwk(RSA, kid="x", alg="HS256"),
        rsa_jwk(RSA, kid="x", alg="none"),
        rsa_jwk(RSA, kid="x", use="enc"),
    ],
    ids=lambda entry: str({name: value for name, value in entry.items() if len(value) < 10}),
)
def test_keys_for_something_else_are_left_out(path: Path, other: dict[str, Any]) -> None:
    write_keys(path, other, ec_jwk(EC, kid="e"))
    keys = KeyFile(path)
    assert keys.key("x") is None
    assert keys.key("e") is not None
    write_keys(path, other)
    assert refusal(path) == "it holds no key for RS256 or ES256"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it isn't a JSON object with a list of keys"),
        ("{", "it isn't a JSON object with a list of keys"),
        ("[]", "it isn't a JSON object with a list of keys"),
        ("null", "it isn't a JSON object with a list of keys"),
        ("{}", "it isn't a JSON object with a list of keys"),
        ('{"keys": {}}', "it isn't a JSON object with a list of keys"),
        ('{"keys": ["x"]}', "it isn't a JSON object with a list of keys"),
        ("[" * 100_000, "it isn't a JSON object with a list of keys"),
        ('{"keys": []}', "it holds no key for RS256 or ES256"),
        (json.dumps({"keys": [ec_jwk(EC, kid="e"), ec_jwk(OTHER, kid="e")]}), "two of its keys have the kid 'e'"),
        (json.dumps({"keys": [ec_jwk(EC), ec_jwk(OTHER)]}), "two of its keys have the kid None"),
        (json.dumps({"keys": [ec_jwk(EC, kid=5)]}), "a kid isn't a text"),
        (json.dumps({"keys": [ec_jwk(EC, kid=["e"])]}), "a kid isn't a text"),
        (json.dumps({"keys": [ec_jwk(EC, kid="e", d="A")]}), "its key 'e' is a private one, which doesn't belong here"),
        (json.dumps({"keys": [ec_jwk(EC, kid="e", x="AAAA")]}), "its key 'e' is broken"),
        (json.dumps({"keys": [ec_jwk(EC, kid="e", x=5)]}), "its key 'e' is broken"),
        (json.dumps({"keys": [{"kty": "RSA", "kid": "r"}]}), "its key 'r' is broken"),
        (json.dumps({"keys": [{"kty": "RSA", "kid": "r", "n": "!", "e": "AQAB"}]}), "its key 'r' is broken"),
        (json.dumps({"keys": [rsa_jwk(SMALL, kid="r")]}), "its key 'r' is shorter than 2048 bits"),
    ],
)  # fmt: skip
def test_files_that_cannot_be(path: Path, content: str, problem: str) -> None:
    path.write_text(content)
    assert refusal(path) == problem


def test_files_that_cannot_be_read(path: Path) -> None:
    assert refusal(path) == "No such file or directory"
    path.mkdir()
    assert refusal(path) == "Is a directory"
    path.rmdir()
    path.write_bytes(b"\xff\xfe")
    assert refusal(path) == "it isn't a JSON object with a list of keys"


def test_a_changed_file_counts_at_once(path: Path) -> None:
    write_keys(path, ec_jwk(EC, kid="old"))
    keys = KeyFile(path)
    assert keys.key("old") is not None
    write_keys(path, ec_jwk(OTHER, kid="new"))
    assert (keys.key("old"), keys.key("new") is not None) == (None, True)


def test_a_file_that_has_not_changed_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys(path, ec_jwk(EC, kid="e"))
    keys = KeyFile(path)
    monkeypatch.setattr(Path, "read_bytes", lambda _path: pytest.fail("read again"))
    assert keys.key("e") is keys.key("e") is not None


def test_a_broken_file_keeps_the_old_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, not for every token, and ends by itself when the file is whole again."""
    write_keys(path, ec_jwk(EC, kid="old"))
    keys = KeyFile(path)
    with caplog.at_level(logging.ERROR):
        path.write_text('{"keys": [')
        assert [keys.key("old") is not None for _ in range(3)] == [True] * 3
        path.unlink()
        assert [keys.key("old") is not None for _ in range(3)] == [True] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} can't be used, its old keys stay: it isn't a JSON object with a list of keys",
        f"{path} can't be used, its old keys stay: No such file or directory",
    ]
    write_keys(path, ec_jwk(OTHER, kid="new"))
    assert (keys.key("old"), keys.key("new") is not None) == (None, True)


def test_an_older_file_put_back_counts_too(path: Path) -> None:
    """As `mv`, `cp -p` or a link to another folder do it: the time may go backwards, or stand still."""
    write_keys(path, ec_jwk(EC, kid="old"))
    stat = path.stat()
    keys = KeyFile(path)
    write_keys(path, ec_jwk(OTHER, kid="new"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert keys.key("new") is not None
