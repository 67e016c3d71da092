"""What signs JSON Web Tokens by hand, with no library that would refuse to: right ones, and every kind of wrong one."""

from __future__ import annotations

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

__all__ = ["SECRET", "b64", "claims", "ec_jwk", "es256", "hs256", "none", "rs256", "rsa_jwk", "write_keys"]

SECRET = "sesame-0123456789-0123456789-0123"

RsaKey = rsa.RSAPrivateKey
EcKey = ec.EllipticCurvePrivateKey


def b64(data: bytes | str | dict[str, Any] | list[Any]) -> str:
    """Return *data* as a segment of a token; what isn't text or bytes is made JSON first."""
    raw = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changed: Any) -> dict[str, Any]:
    """Return good claims with some changed; None takes one away."""
    good = {"sub": "alice", "exp": int(time.time()) + 3600}
    return {name: value for name, value in (good | changed).items() if value is not None}


def _input(payload: Any, alg: str, header: dict[str, Any]) -> str:
    head = {name: value for name, value in ({"alg": alg, "typ": "JWT"} | header).items() if value is not None}
    return f"{b64(head)}.{b64(payload)}"


def hs256(payload: Any, key: bytes | str = SECRET, digest: str = "sha256", **header: Any) -> str:
    signed = _input(payload, "HS256", header)
    secret = key.encode() if isinstance(key, str) else key
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), digest))}"


def rs256(payload: Any, key: RsaKey, digest: hashes.HashAlgorithm | None = None, **header: Any) -> str:
    signed = _input(payload, "RS256", header)
    return f"{signed}.{b64(key.sign(signed.encode(), padding.PKCS1v15(), digest or hashes.SHA256()))}"


def es256(payload: Any, key: EcKey, **header: Any) -> str:
    signed = _input(payload, "ES256", header)
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def none(payload: Any, signature: str = "", **header: Any) -> str:
    return f"{_input(payload, 'none', header)}.{signature}"


def _number(value: int, size: int | None = None) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def rsa_jwk(key: RsaKey, **changed: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)} | changed


def ec_jwk(key: EcKey, **changed: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "x": _number(numbers.x, 32), "y": _number(numbers.y, 32)} | changed


def write_keys(path: Path, *keys: dict[str, Any]) -> None:
    """Put a whole new file there, as a careful writer does."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"keys": keys}))
    partial.replace(path)
