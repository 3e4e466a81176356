"""Keys and tokens for tests: a JWKS of one key for each algorithm, and tokens that it signs."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE: Final = "ticker"
ISSUER: Final = "https://id.example"
SECRET: Final = b"a secret of at least thirty-two bytes, for HS256"
#: By kid: the algorithm that the key is for.
KIDS: Final = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "hmac": "HS256"}


@cache
def private(kid: str) -> Any:
    """The private key of `kid`."""
    match kid:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ec" | "stranger":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return SECRET


def jwk(kid: str) -> dict[str, Any]:
    """The entry of `kid` in a JWKS."""
    key = private(kid)
    public = {
        "rsa": lambda: RSAAlgorithm.to_jwk(key.public_key(), as_dict=True),
        "ec": lambda: ECAlgorithm.to_jwk(key.public_key(), as_dict=True),
        "ed": lambda: OKPAlgorithm.to_jwk(key.public_key(), as_dict=True),
        "hmac": lambda: HMACAlgorithm.to_jwk(key, as_dict=True),
    }[kid]()
    made = {name: value for name, value in public.items() if name != "key_ops"}
    return made | {"kid": kid, "alg": KIDS[kid], "use": "sig"}


def jwks(*kids: str) -> str:
    """A JWKS of some keys; of all where none is named."""
    return json.dumps({"keys": [jwk(kid) for kid in kids or KIDS]})


def pem(kid: str) -> str:
    """A public key as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(private(kid).public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def claims(now: float | None = None, **more: Any) -> dict[str, Any]:
    """Claims that are good for ten minutes; None leaves one out."""
    now = time.time() if now is None else now
    rights = {"symbols": ["*"], "delay_minutes": 0}
    all_of = {"sub": "desk-7", "aud": AUDIENCE, "iss": ISSUER, "exp": int(now) + 600, "ticker": rights, **more}
    return {name: value for name, value in all_of.items() if value is not None}


def token(
    kid: str = "ec",
    now: float | None = None,
    *,
    key: Any = None,
    algorithm: str | None = None,
    headers: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """A token that the key `kid` signs."""
    signing = private(kid) if key is None else key
    return jwt.encode(
        claims(now, **more), signing, algorithm or KIDS[kid], {"kid": kid} if headers is None else headers
    )
