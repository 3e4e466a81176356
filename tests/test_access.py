"""Who may see what: each way in which a token can be wrong, and what a good one grants."""

from __future__ import annotations

import json
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import AUDIENCE, ISSUER, KIDS, SECRET, claims, jwk, jwks, pem, private, token
from ticker.access import (
    EVERYTHING,
    OPEN,
    TOKEN_CHARS_MAX,
    Access,
    ApiKeys,
    Expected,
    Grant,
    JwtKeys,
    KeyFileError,
    Rights,
    header_token,
    new_api_key,
    rights_of,
    subprotocol_token,
)
from ticker.errors import Code, RequestError

US = 1_000_000
NOW_S = 1_800_000_000
NOW = NOW_S * US
EXPECTED = Expected(AUDIENCE, ISSUER, 10 * US)
KEYS = JwtKeys.parse(jwks(), "", EXPECTED)
ACCESS = Access(jwt_keys=KEYS)


def refused(access: Access, shown: str, now: int = NOW) -> str:
    """Why a token is refused."""
    with pytest.raises(RequestError) as caught:
        access.check(shown, now)
    assert caught.value.code is Code.AUTH_FAILED
    for part in shown.split("."):  # what is told, and so may be logged, holds nothing of it
        assert len(part) < 12 or part not in caught.value.message
    return caught.value.message


# -- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kid", KIDS)
def test_each_key_signs_with_its_own_algorithm(kid: str) -> None:
    grant = ACCESS.check(token(kid, NOW_S), NOW)
    assert grant == Grant("desk-7", Rights(("*",), 0), f"jwt:{kid}", NOW + 610 * US)
    assert ACCESS.holds(grant)


@pytest.mark.parametrize("shown", ["", ".", "..", "garbage", "a.b.c", "Bearer x", "tk_", "\N{SNOWMAN}"])
def test_garbage_is_refused(shown: str) -> None:
    assert refused(ACCESS, shown) == "expected a JWT or an API key"


@given(shown=st.text(max_size=60) | st.builds(".".join, st.lists(st.text("aeyJhbGci0_-", max_size=20), max_size=4)))
def test_no_text_is_anything_but_refused(shown: str) -> None:
    api = ApiKeys([new_api_key("desk-7", EVERYTHING, NOW)[1]])
    for access in (ACCESS, Access(api_keys=api), Access(KEYS, api)):
        refused(access, shown)


@given(at=st.integers(0), bit=st.integers(0, 5))
def test_a_token_with_one_bit_changed_is_refused(at: int, bit: int) -> None:
    good = token("ed", NOW_S)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # The last letter of each part holds bits that count for nothing.
    places = [i for i in range(len(good) - 1) if good[i] != "." and good[i + 1] != "."]
    place = places[at % len(places)]
    changed = letters[letters.index(good[place]) ^ (1 << bit)]
    refused(ACCESS, good[:place] + changed + good[place + 1 :])


def test_none_is_no_algorithm() -> None:
    bare = jwt.encode(claims(NOW_S), "", "none", {"kid": "ec"})
    assert refused(ACCESS, bare) == "alg: expected ES256, which that key is for"


def test_a_public_key_is_no_shared_secret() -> None:
    # RFC 8725, section 2.1: the public key, which anyone has, used as the secret of an HMAC.
    body = jwt.encode(claims(NOW_S), SECRET, "HS256", {"kid": "rsa"})
    assert refused(ACCESS, body) == "alg: expected RS256, which that key is for"
    single = Access(JwtKeys.parse(pem("rsa"), "RS256", EXPECTED))
    assert refused(single, body) == "alg: expected RS256, which that key is for"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"exp": NOW_S - 11}, "the token has expired"),
        ({"exp": NOW_S - 10}, "the token has expired"),
        ({"exp": None}, "exp: expected one, which is missing"),
        ({"exp": "tomorrow"}, "exp: expected seconds since 1970"),
        ({"exp": True}, "exp: expected seconds since 1970"),
        ({"exp": 1e300}, "exp: expected seconds since 1970"),
        ({"nbf": NOW_S + 11}, "the token is not valid yet"),
        ({"nbf": "now"}, "nbf: expected seconds since 1970"),
        ({"aud": "another"}, "aud: expected this service"),
        ({"aud": ["another", "third"]}, "aud: expected this service"),
        ({"aud": None}, "aud: expected one, which is missing"),
        ({"iss": "https://evil.example"}, "iss: expected the issuer that this service knows"),
        ({"iss": None}, "iss: expected one, which is missing"),
        ({"sub": None}, "sub: expected one, which is missing"),
        ({"sub": ""}, "sub: expected 1 to 256 characters"),
        ({"ticker": None}, "ticker: expected the claim that says what is granted, which is missing"),
        ({"ticker": "all"}, "the claim ticker: Expected `object`, got `str`"),
        ({"ticker": {}}, "the claim ticker: Object missing required field `symbols`"),
        ({"ticker": {"symbols": ["*"]}}, "the claim ticker: Object missing required field `delay_minutes`"),
    ],
)
def test_what_a_token_has_to_say(more: dict[str, Any], why: str) -> None:
    assert refused(ACCESS, token("ec", NOW_S, **more)) == why


@pytest.mark.parametrize(
    "more", [{"exp": NOW_S - 9}, {"nbf": NOW_S + 10}, {"aud": ["x", AUDIENCE]}, {"iat": NOW_S + 99}]
)
def test_what_a_token_may_say(more: dict[str, Any]) -> None:
    assert ACCESS.check(token("ec", NOW_S, **more), NOW).subject == "desk-7"


def test_a_key_has_to_be_known() -> None:
    for headers in ({"kid": "other"}, {"kid": "../ec"}, {}):
        shown = token("ec", NOW_S, headers=headers)
        assert refused(ACCESS, shown) == "kid: expected that of a key which is known here"
    assert (
        refused(ACCESS, token("ec", NOW_S, key=private("stranger"))) == "the token's signature is not that of its key"
    )
    alone = Access(JwtKeys.parse(jwks("ec"), "", EXPECTED))
    assert alone.check(token("ec", NOW_S, headers={}), NOW).key == "jwt:ec"


def test_a_huge_token_is_refused_unread() -> None:
    assert refused(ACCESS, "a" * (TOKEN_CHARS_MAX + 1)) == "expected a token of at most 8192 characters, was 8193"
    assert "JWT" in refused(ACCESS, "a" * TOKEN_CHARS_MAX)


def test_a_grant_ends_when_its_token_does() -> None:
    grant = ACCESS.check(token("ec", NOW_S), NOW)
    assert not grant.ended(NOW + 610 * US - 1)
    assert grant.ended(NOW + 610 * US)
    assert not OPEN.ended(NOW)


def test_a_newer_token_renews_what_says_the_same() -> None:
    older = ACCESS.check(token("ec", NOW_S), NOW)
    assert ACCESS.check(token("rsa", NOW_S, exp=NOW_S + 9999), NOW).renews(older)
    assert not ACCESS.check(token("ec", NOW_S, sub="desk-8"), NOW).renews(older)
    assert not ACCESS.check(token("ec", NOW_S, ticker={"symbols": ["A"], "delay_minutes": 0}), NOW).renews(older)


# -- what is granted -----------------------------------------------------------------------------------------------


def test_a_grant_spells_its_restrictions() -> None:
    said = {
        "symbols": ["binance-spot:*", "AAPL"],
        "delay_minutes": 15,
        "channels": ["ticker"],
        "symbols_max": 50,
        "interval_ms_min": 250,
        "connections_max": 2,
        "replay": True,
        "stats": True,
    }
    rights = rights_of(said, "here")
    assert rights == Rights(("binance-spot:*", "AAPL"), 15, ("ticker",), 50, 250, 2, True, True)
    assert Grant("a", rights).delay_ms == 900_000


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"symbol_max": 5}, "Object contains unknown field `symbol_max`"),
        ({"symbols": []}, "symbols: Expected `array` of length >= 1"),
        ({"symbols": "AAPL"}, "symbols: Expected `array`, got `str`"),
        ({"symbols": [""]}, "symbols[0]: Expected `str` of length >= 1"),
        ({"symbols": ["a b"]}, "symbols: expected names and patterns of symbols, was 'a b'"),
        ({"channels": ["ticker", "news"]}, "channels: expected some of ticker, trades, bars, was 'news'"),
        ({"delay_minutes": -1}, "delay_minutes: Expected `float` >= 0.0"),
        ({"delay_minutes": "0"}, "delay_minutes: Expected `float`, got `str`"),
        ({"interval_ms_min": 60_001}, "interval_ms_min: Expected `int` <= 60000"),
        ({"symbols_max": 0}, "symbols_max: Expected `int` >= 1"),
        ({"replay": 1}, "replay: Expected `bool`, got `int`"),
    ],
)
def test_a_grant_that_is_misspelt_grants_nothing(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        rights_of({"symbols": ["*"], "delay_minutes": 0, **more}, "here")
    assert str(caught.value) == f"here: {why}"


# -- key files -----------------------------------------------------------------------------------------------------


def test_one_key_as_pem() -> None:
    keys = Access(JwtKeys.parse(pem("ec"), "ES256", EXPECTED))
    assert keys.check(token("ec", NOW_S), NOW).key == "jwt:"
    assert refused(keys, token("ed", NOW_S)) == "alg: expected ES256, which that key is for"


def jwks_of(**changed: Any) -> str:
    entry = {name: value for name, value in (jwk("ec") | changed).items() if value is not None}
    return json.dumps({"keys": [entry]})


@pytest.mark.parametrize(
    ("text", "algorithm", "why"),
    [
        ("", "", "expected a JWKS or a PEM key, was neither"),
        (jwks()[:-20], "", "expected a JWKS or a PEM key, was neither"),
        ("[]", "", "expected a JWKS, "),
        ('{"keys":[]}', "", "expected a JWKS, "),
        ('{"keys":["x"]}', "", "key 1: expected a kid of its own"),
        (json.dumps({"keys": [jwk("ec"), jwk("ec")]}), "", "key 2: expected a kid of its own"),
        (jwks_of(kid=None), "", "key 1: expected a kid of its own"),
        (jwks_of(alg=None), "", "key 'ec': alg: expected one of ES256, "),
        (jwks_of(alg="none"), "", "key 'ec': alg: expected one of ES256, "),
        (jwks_of(alg="RS256"), "", "key 'ec': expected a key for RS256"),
        (jwks_of(use="enc"), "", "key 'ec': use: expected sig, was 'enc'"),
        (jwks_of(x="AAAA"), "", "key 'ec': expected a key for ES256"),
        (jwks_of(d="AAAA"), "", "key 'ec': expected a public key, was a private one"),
        (
            json.dumps({"keys": [{"kid": "h", "kty": "oct", "alg": "HS256", "k": "c2hvcnQ"}]}),
            "",
            "key 'h': The HMAC key is",
        ),
        (jwks(), "ES256", "expected a PEM key, because jwt_algorithm is given"),
        (pem("ec"), "", "jwt_algorithm: expected one of ES256, "),
        (pem("ec"), "HS256", "jwt_algorithm: expected one of ES256, "),
        (pem("ec"), "none", "jwt_algorithm: expected one of ES256, "),
        (pem("ec"), "RS256", "expected a public key for RS256"),
        (pem("ec")[:60], "ES256", "expected a public key for ES256"),
        ("-----BEGIN PRIVATE KEY-----\n", "ES256", "expected a public key, was a private one"),
    ],
)
def test_a_file_of_signing_keys_that_cannot_be_used(text: str, algorithm: str, why: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        JwtKeys.parse(text, algorithm, EXPECTED)
    assert str(caught.value).startswith(why)
    assert "\n" not in str(caught.value)


def test_an_api_key_is_stored_as_a_salted_hash() -> None:
    shown, key = new_api_key("desk-7", Rights(("A",), 0), NOW)
    other = new_api_key("desk-7", Rights(("A",), 0), NOW)[1]
    file = ApiKeys([key, other])
    secret = shown.rpartition("_")[2]
    assert secret not in file.format()
    assert len({key.salt, other.salt, key.hash, other.hash}) == 4
    again = ApiKeys.parse(file.format())
    assert again.all == file.all
    assert again.check(shown, NOW) == Grant("desk-7", Rights(("A",), 0), f"api:{key.id}")
    for wrong in (
        shown[:-1],
        shown + "0",
        f"tk_{key.id}_",
        f"tk_{key.id}",
        f"tk_{other.id}_{secret}",
        f"tk_0_{secret}",
    ):
        assert refused(Access(api_keys=again), wrong) == "the API key is not known here"


def test_an_api_key_that_is_revoked_or_has_expired() -> None:
    shown, key = new_api_key("desk-7", EVERYTHING, NOW, NOW + 5)
    keys = ApiKeys([key])
    grant = keys.check(shown, NOW + 4)
    assert grant.expires == NOW + 5
    assert refused(Access(api_keys=keys), shown, NOW + 5) == "the API key has expired"
    revoked = Access(api_keys=keys.revoke(key.id, NOW + 1))
    assert refused(revoked, shown) == "the API key has been revoked"
    assert not revoked.holds(grant)
    assert revoked.api_keys is not None
    assert revoked.api_keys.revoke(key.id, NOW + 3).all[key.id].revoked == NOW + 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected the JSON that `ticker keys` writes"),
        ('{"keys":[', "expected the JSON that `ticker keys` writes"),
        ("[]", "Expected `object`, got `array`"),
        ('{"keys":[{}]}', "keys[0]: Object missing required field `id`"),
        ('{"version":2,"keys":[]}', "version: Expected `int` <= 1"),
        ('{"kees":[]}', "Object contains unknown field `kees`"),
    ],
)
def test_a_file_of_api_keys_that_cannot_be_used(text: str, why: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        ApiKeys.parse(text)
    assert str(caught.value).startswith(why)


def test_ids_are_told_apart() -> None:
    key = new_api_key("a", EVERYTHING, NOW)[1]
    with pytest.raises(KeyFileError, match="an id of its own"):
        ApiKeys.parse(msgspec.json.encode({"keys": [key, key], "version": 1}).decode())


# -- both ----------------------------------------------------------------------------------------------------------


def test_both_kinds_side_by_side_and_neither() -> None:
    shown, key = new_api_key("a", EVERYTHING, NOW)
    both = ACCESS.with_api_keys(ApiKeys([key]))
    assert both.check(shown, NOW).subject == "a"
    assert both.check(token("ec", NOW_S), NOW).subject == "desk-7"
    assert refused(Access(api_keys=ApiKeys([key])), token("ec", NOW_S)) == "expected an API key"
    assert not Access().required
    assert Access().holds(OPEN)
    assert Access(api_keys=ApiKeys([])).required, "a file without keys lets nobody in"


def test_a_grant_holds_for_as_long_as_its_key_is_there() -> None:
    grant = ACCESS.check(token("ec", NOW_S), NOW)
    assert ACCESS.with_jwt_keys(JwtKeys.parse(jwks("ec", "rsa"), "", EXPECTED)).holds(grant)
    assert not ACCESS.with_jwt_keys(JwtKeys.parse(jwks("rsa"), "", EXPECTED)).holds(grant)
    assert not ACCESS.holds(OPEN)


def test_where_a_token_is_shown() -> None:
    assert header_token(None) is None
    assert header_token("Bearer abc") == "abc"
    assert header_token("bearer  abc ") == "abc"
    for wrong in ("", "abc", "Basic abc", "Bearer", "Bearer  "):
        with pytest.raises(RequestError, match="expected Bearer and a token"):
            header_token(wrong)
    assert subprotocol_token(["ticker.v1", "bearer.abc.def"]) == "abc.def"
    assert subprotocol_token(["ticker.v1"]) is None
