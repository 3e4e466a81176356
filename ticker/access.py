"""Who may see what: a token in, a `Grant` out. Pure: key files are texts, time is an argument.

A token is a JWT (RFC 7519), signed by a key of a JWKS (RFC 7517) or by one PEM key, or an API key. Both name a subject
and what is granted to it, in the same words: a JWT in its claim `ticker`, an API key in the file that holds its hash.

A `Grant` without a restriction has to be spelled out: which symbols, and how late, must be said, because exchanges
license real-time and delayed data apart; a member that is not known refuses the whole, so that no misspelt restriction
ever widens what is seen.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import jwt
import msgspec
import orjson
from jwt.algorithms import get_default_algorithms

from feeds.ticks import is_key
from ticker.errors import Code, RequestError
from ticker.protocol import BARS, INTERVAL_MS_MAX, TICKER, TRADES

#: Longer ones are refused unread.
TOKEN_CHARS_MAX: Final = 8192
#: What an API key begins with: `tk_ID_SECRET`.
API_KEY: Final = "tk_"
CHANNELS: Final = (TICKER, TRADES, BARS)
#: Algorithms that a key may have. `none` is not among them.
ALGORITHMS: Final = frozenset(f"{family}{bits}" for family in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)) | {
    "EdDSA"
}
PUBLIC_KEY: Final = "-----BEGIN "
US: Final = 1_000_000
MINUTE_MS: Final = 60_000

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class KeyFileError(ValueError):
    """The content of a key file cannot be used. The text is one line and holds nothing of it that is secret."""


class Rights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is granted, as a JWT's claim `ticker` or an API key spells it."""

    #: Names and shell patterns.
    symbols: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=1000)]
    #: How late; 0 for real time.
    delay_minutes: Annotated[float, msgspec.Meta(ge=0, le=100_000)]
    channels: tuple[str, ...] = CHANNELS
    symbols_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    interval_ms_min: Annotated[int, msgspec.Meta(ge=0, le=INTERVAL_MS_MAX)] = 0
    connections_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    replay: bool = False
    #: Whether it may see who else watches, and the metrics.
    stats: bool = False

    def __post_init__(self) -> None:
        for channel in self.channels:
            if channel not in CHANNELS:
                raise ValueError(f"channels: expected some of {', '.join(CHANNELS)}, was {channel[:40]!r}")
        for name in self.symbols:
            if not is_key(name):
                raise ValueError(f"symbols: expected names and patterns of symbols, was {name[:64]!r}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What one who connects may see, and for how long."""

    subject: str
    rights: Rights
    #: The key that it rests on: `jwt:KID` or `api:ID`. Once that is gone, so is the grant.
    key: str = ""
    #: When it ends, in microseconds; None for no end.
    expires: int | None = None

    @property
    def delay_ms(self) -> int:
        return round(self.rights.delay_minutes * MINUTE_MS)

    def ended(self, now: int) -> bool:
        return self.expires is not None and now >= self.expires

    def renews(self, older: Grant) -> bool:
        """Whether it says the same as `older`, but for how long."""
        return (self.subject, self.rights) == (older.subject, older.rights)


#: What everybody may where no token is asked for.
EVERYTHING: Final = Rights(("*",), 0, replay=True, stats=True)
OPEN: Final = Grant("", EVERYTHING)


def refusal(message: str) -> RequestError:
    """What a token is refused with."""
    return RequestError(Code.AUTH_FAILED, message)


def rights_of(value: object, where: str) -> Rights:
    """What a claim or a file's member grants. Raises ValueError that names the place."""
    try:
        return msgspec.convert(value, Rights)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {_plain(error)}") from None


def _plain(error: msgspec.ValidationError) -> str:
    text, _, path = str(error).partition(" - at `$")
    return f"{path.rstrip('`').lstrip('.')}: {text}" if path.strip("`") else text


# -- JWT -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expected:
    """What every JWT has to name, and how far apart clocks may be, in microseconds."""

    audience: str
    issuer: str
    leeway_us: int = 0


class JwtKeys:
    """The keys that sign JWTs, each with the one algorithm that it is for."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK | tuple[Any, str]], expected: Expected) -> None:
        self._keys = dict(keys)
        self._expected = expected
        self._decoder = jwt.PyJWT({"enforce_minimum_key_length": True})

    @classmethod
    def parse(cls, text: str, algorithm: str, expected: Expected) -> JwtKeys:
        """The keys in a file: a JWKS, or one public key as PEM, which is for `algorithm`. Raises KeyFileError."""
        if text.lstrip().startswith(PUBLIC_KEY):
            return cls({"": _pem(text, algorithm)}, expected)
        if algorithm:
            raise KeyFileError("expected a PEM key, because jwt_algorithm is given; a JWKS names its keys' own")
        return cls(_jwks(text), expected)

    @property
    def names(self) -> frozenset[str]:
        """The keys that there are, as a grant names them."""
        return frozenset(f"jwt:{kid}" for kid in self._keys)

    def check(self, token: str, now: int) -> Grant:
        """What `token` grants at the time `now`. Raises RequestError."""
        kid = self._kid(token)
        key = self._keys[kid]
        algorithm = key.algorithm_name if isinstance(key, jwt.PyJWK) else key[1]
        expected = self._expected
        try:
            claims = self._decoder.decode(
                token,
                key if isinstance(key, jwt.PyJWK) else key[0],
                [algorithm],
                # Times are checked below, by the clock that is passed in.
                {
                    "require": ["exp", "aud", "iss", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
                audience=expected.audience,
                issuer=expected.issuer,
            )
        except jwt.PyJWTError as error:
            raise refusal(_why(error, algorithm)) from None
        expires, begins = _time(claims, "exp"), _time(claims, "nbf")
        assert expires is not None
        if now >= expires + expected.leeway_us:
            raise refusal("the token has expired")
        if begins is not None and now < begins - expected.leeway_us:
            raise refusal("the token is not valid yet")
        subject = claims["sub"]
        if not 0 < len(subject) <= 256:
            raise refusal("sub: expected 1 to 256 characters")
        if "ticker" not in claims:
            raise refusal("ticker: expected the claim that says what is granted, which is missing")
        try:
            rights = rights_of(claims["ticker"], "the claim ticker")
        except ValueError as error:
            raise refusal(str(error)) from None
        return Grant(subject, rights, f"jwt:{kid}", expires + expected.leeway_us)

    def _kid(self, token: str) -> str:
        """The name of the key that a token says has signed it."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            raise refusal("expected a JWT or an API key") from None
        if "" in self._keys or (kid is None and len(self._keys) == 1):
            return next(iter(self._keys))
        if not isinstance(kid, str) or kid not in self._keys:
            raise refusal("kid: expected that of a key which is known here")
        return kid


def _pem(text: str, algorithm: str) -> tuple[Any, str]:
    if algorithm not in ALGORITHMS or algorithm.startswith("HS"):
        known = ", ".join(sorted(name for name in ALGORITHMS if not name.startswith("HS")))
        raise KeyFileError(f"jwt_algorithm: expected one of {known} for a PEM key, was {algorithm!r}")
    if "PRIVATE KEY" in text:
        raise KeyFileError("expected a public key, was a private one, which is for who signs and for nobody else")
    try:
        key = get_default_algorithms()[algorithm].prepare_key(text.encode())
    except Exception as error:  # noqa: BLE001 - whatever the library makes of a text that is no key
        raise KeyFileError(f"expected a public key for {algorithm} as PEM: {type(error).__name__}") from None
    return key, algorithm


def _jwks(text: str) -> dict[str, jwt.PyJWK | tuple[Any, str]]:
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise KeyFileError(f"expected a JWKS or a PEM key, was neither: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("keys"), list) or not body["keys"]:
        raise KeyFileError('expected a JWKS, {"keys":[...]} with at least one key')
    keys: dict[str, jwt.PyJWK | tuple[Any, str]] = {}
    for number, entry in enumerate(body["keys"], 1):
        kid, algorithm = (entry.get("kid"), entry.get("alg")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kid, str) or not kid or kid in keys:
            raise KeyFileError(f"key {number}: expected a kid of its own")
        if algorithm not in ALGORITHMS:
            raise KeyFileError(
                f"key {kid!r}: alg: expected one of {', '.join(sorted(ALGORITHMS))}, was {str(algorithm)[:20]!r}"
            )
        if entry.get("use", "sig") != "sig":
            raise KeyFileError(f"key {kid!r}: use: expected sig, was {str(entry['use'])[:20]!r}")
        if "d" in entry:
            raise KeyFileError(f"key {kid!r}: expected a public key, was a private one")
        try:
            keys[kid] = jwt.PyJWK(entry)
        except jwt.PyJWTError as error:
            raise KeyFileError(f"key {kid!r}: expected a key for {algorithm}: {type(error).__name__}") from None
        if (short := _too_short(keys[kid])) is not None:
            raise KeyFileError(f"key {kid!r}: {short}")
    return keys


def _too_short(key: jwt.PyJWK | tuple[Any, str]) -> str | None:
    assert isinstance(key, jwt.PyJWK)
    return key.Algorithm.check_key_length(key.key)


def _why(error: jwt.PyJWTError, algorithm: str) -> str:
    """Why a token is refused, in words that hold nothing of it."""
    match error:
        case jwt.InvalidAudienceError():
            return "aud: expected this service"
        case jwt.InvalidIssuerError():
            return "iss: expected the issuer that this service knows"
        case jwt.MissingRequiredClaimError(claim=claim):
            return f"{claim}: expected one, which is missing"
        case jwt.InvalidAlgorithmError():
            return f"alg: expected {algorithm}, which that key is for"
        case jwt.InvalidSignatureError():
            return "the token's signature is not that of its key"
        case jwt.exceptions.InvalidSubjectError():
            return "sub: expected a string"
        case _:
            return "expected a JWT or an API key"


def _time(claims: Mapping[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise refusal(f"{name}: expected seconds since 1970")
    return int(value * US)


# -- API keys --------------------------------------------------------------------------------------------------------


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One API key: whose it is, what it grants, and the salted hash of its secret. Times in microseconds."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
    subject: Text
    salt: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    rights: Rights
    created: int
    expires: int | None = None
    revoked: int | None = None


class ApiKeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of API keys."""

    keys: list[ApiKey] = []
    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1


def new_api_key(subject: str, rights: Rights, now: int, expires: int | None = None) -> tuple[str, ApiKey]:
    """A new key: the token, which is told to its owner and kept nowhere, and what the file holds of it."""
    id, salt = secrets.token_hex(6), secrets.token_hex(16)  # noqa: A001 - a key's name
    secret = secrets.token_hex(32)
    return f"{API_KEY}{id}_{secret}", ApiKey(id, subject, salt, _hash(secret, salt), rights, now, expires)


def _hash(secret: str, salt: str) -> str:
    """A secret is 256 random bits: no guess finds it, so that a slow hash would cost each handshake and gain nothing."""
    return hashlib.blake2b(secret.encode(), digest_size=32, salt=bytes.fromhex(salt)).hexdigest()


class ApiKeys:
    """The API keys of a file."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.all = {key.id: key for key in keys}

    @classmethod
    def parse(cls, text: str) -> ApiKeys:
        """The keys in a file. Raises KeyFileError."""
        try:
            keys = msgspec.json.decode(text, type=ApiKeyFile).keys
        except msgspec.ValidationError as error:
            raise KeyFileError(_plain(error)) from None
        except msgspec.DecodeError as error:
            raise KeyFileError(f"expected the JSON that `ticker keys` writes: {error}") from None
        if len({key.id for key in keys}) != len(keys):
            raise KeyFileError("expected an id of its own for each key")
        return cls(keys)

    def format(self) -> str:
        """The text of their file."""
        return msgspec.json.format(msgspec.json.encode(ApiKeyFile(list(self.all.values())))).decode() + "\n"

    @property
    def names(self) -> frozenset[str]:
        """The keys that are good, but for their time, as a grant names them."""
        return frozenset(f"api:{key.id}" for key in self.all.values() if key.revoked is None)

    def check(self, token: str, now: int) -> Grant:
        """What `token` grants at the time `now`. Raises RequestError."""
        id, _, secret = token.removeprefix(API_KEY).partition("_")  # noqa: A001 - a key's name
        key = self.all.get(id)
        right = hmac.compare_digest(_hash(secret, key.salt if key else "00" * 16), key.hash if key else "")
        if key is None or not right:
            raise refusal("the API key is not known here")
        if key.revoked is not None:
            raise refusal("the API key has been revoked")
        grant = Grant(key.subject, key.rights, f"api:{key.id}", key.expires)
        if grant.ended(now):
            raise refusal("the API key has expired")
        return grant

    def revoke(self, id: str, now: int) -> ApiKeys:
        """The keys, of which `id` counts no more. Raises KeyError."""
        revoked = msgspec.structs.replace(self.all[id], revoked=self.all[id].revoked or now)
        return ApiKeys((self.all | {id: revoked}).values())


# -- both ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access:
    """All keys at one time. Without any, everybody may see everything."""

    jwt_keys: JwtKeys | None = None
    api_keys: ApiKeys | None = None
    names: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        held = (keys.names for keys in (self.jwt_keys, self.api_keys) if keys is not None)
        object.__setattr__(self, "names", frozenset().union(*held))

    @property
    def required(self) -> bool:
        """Whether a token is asked for."""
        return self.jwt_keys is not None or self.api_keys is not None

    def check(self, token: str, now: int) -> Grant:
        """What `token` grants at the time `now`. Raises RequestError, whose text holds nothing of the token."""
        if len(token) > TOKEN_CHARS_MAX:
            raise refusal(f"expected a token of at most {TOKEN_CHARS_MAX} characters, was {len(token)}")
        if self.api_keys is not None and token.startswith(API_KEY):
            return self.api_keys.check(token, now)
        if self.jwt_keys is not None:
            return self.jwt_keys.check(token, now)
        raise refusal("expected an API key")

    def holds(self, grant: Grant) -> bool:
        """Whether the key that `grant` rests on still counts."""
        return not self.required or grant.key in self.names

    def with_jwt_keys(self, keys: JwtKeys) -> Access:
        return replace(self, jwt_keys=keys)

    def with_api_keys(self, keys: ApiKeys) -> Access:
        return replace(self, api_keys=keys)


def subprotocol_token(offered: Sequence[str]) -> str | None:
    """The token among the subprotocols that a WebSocket offers, `bearer.TOKEN`: what a page can send with an upgrade."""
    return next((name.removeprefix(BEARER) for name in offered if name.startswith(BEARER)), None)


BEARER: Final = "bearer."


def header_token(header: str | None) -> str | None:
    """The token of an `Authorization` header; None where there is no header. Raises RequestError."""
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise refusal("authorization: expected Bearer and a token")
    return token.strip()
