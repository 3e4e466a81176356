"""Who comes in: a real server that asks for tokens, each way to show one, and each way to fail to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers import Server, serving
from tests.test_replays import day
from tests.tokens import AUDIENCE, ISSUER, jwk, jwks, private, token
from ticker.access import EVERYTHING, Rights
from ticker.keys import add, read, revoke

#: The answer to it comes within this.
SOON_S: Final = 10.0
PAGES: Final = ("/v1/snapshot?symbols=*", "/v1/sse?symbols=*", "/v1/symbols", "/v1/trades/SIM001", "/v1/sources")


@dataclass
class Guarded:
    """A server that asks for tokens, and the files of its keys."""

    server: Server
    jwt_file: Path
    api_file: Path
    #: An API key of everything.
    key: str
    #: What was shown to the server, and must be nowhere in its log.
    shown: list[str]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("keys")
    jwt_file, api_file = folder / "jwks.json", folder / "keys.json"
    jwt_file.write_text(jwks())
    key = add(api_file, "desk-1", EVERYTHING, int(time.time() * 1e6))
    flags = ["--jwt-keys-file", jwt_file, "--jwt-audience", AUDIENCE, "--jwt-issuer", ISSUER, "--jwt-leeway-s", "0"]
    flags += ["--api-keys-file", api_file, "--auth-s-max", "0.5", "--log-level", "debug"]
    flags += ["--source", f"day={day(folder / 'day.csv')}"]
    with serving("sim:?symbols=20&rate=400&seed=3", flags=[str(flag) for flag in flags]) as server:
        held = Guarded(server, jwt_file, api_file, key, [key])
        while len(server.get("/v1/snapshot?symbols=*", bearer(key)).json()["items"]) < 20:
            time.sleep(0.02)
        yield held
        said = "".join(server.log) + server.get("/metrics", bearer(key)).text
        assert "feed sim: live" in said
        for shown in held.shown:
            for part in shown.split("."):
                assert len(part) < 12 or part not in said, "a token reached the log"


def shown(guarded: Guarded, kid: str = "ec", **more: Any) -> str:
    made = token(kid, **more)
    guarded.shown.append(made)
    return made


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def hear(socket: ClientConnection, *types: str) -> dict[str, Any]:
    """The next message of one of some types; of any other than heartbeats where none is named."""
    async with asyncio.timeout(SOON_S):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] in types if types else message["type"] != "heartbeat":
                return message


async def closed(socket: ClientConnection) -> tuple[int | None, dict[str, Any]]:
    """How a connection ends: its close code, and the last message before that."""
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(SOON_S):
            while True:
                last = json.loads(await socket.recv())
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else None, last


async def watch(socket: ClientConnection, *symbols: str, **more: Any) -> dict[str, Any]:
    await socket.send(json.dumps({"op": "subscribe", "symbols": symbols, **more}))
    return await hear(socket, "subscribed", "error")


# -- where a token is shown ----------------------------------------------------------------------------------------


async def test_in_a_header(guarded: Guarded) -> None:
    for made in (guarded.key, shown(guarded)):
        async with connect(guarded.server.stream, additional_headers=bearer(made)) as socket:
            assert (await hear(socket))["type"] == "authenticated"
            assert (await hear(socket))["type"] == "welcome"
            assert (await watch(socket, "*"))["type"] == "subscribed"
            assert len((await hear(socket, "snapshot"))["items"]) == 20


async def test_among_the_subprotocols(guarded: Guarded) -> None:
    for made in (guarded.key, shown(guarded, "ed")):
        async with connect(guarded.server.stream, subprotocols=["ticker.v1", f"bearer.{made}"]) as socket:  # type: ignore[list-item]
            assert socket.subprotocol == "ticker.v1", "a token is never echoed"
            assert [(await hear(socket))["type"] for _ in range(2)] == ["authenticated", "welcome"]


async def test_in_the_first_message(guarded: Guarded) -> None:
    expires = int(time.time()) + 60
    async with connect(guarded.server.stream) as socket:
        await socket.send(json.dumps({"op": "auth", "id": 1, "token": shown(guarded, exp=expires)}))
        assert await hear(socket) == {"type": "auth_required", "within_ms": 500}
        answer = await hear(socket)
        assert 55_000 < answer.pop("expires_in_ms") <= 60_000
        assert answer == {"type": "authenticated", "id": 1}
        assert (await hear(socket))["type"] == "welcome"


async def test_what_comes_right_behind_the_token_is_carried_out(guarded: Guarded) -> None:
    async with connect(guarded.server.stream) as socket:
        await socket.send(json.dumps({"op": "auth", "token": guarded.key}))
        await socket.send(json.dumps({"op": "subscribe", "symbols": ["SIM001"]}))
        assert [(await hear(socket))["type"] for _ in range(5)] == [
            *("auth_required", "authenticated", "welcome", "subscribed", "snapshot")
        ]


def test_over_plain_http(guarded: Guarded) -> None:
    for made in (guarded.key, shown(guarded)):
        assert len(guarded.server.get("/v1/snapshot?symbols=*", bearer(made)).json()["items"]) == 20
        assert len(guarded.server.get("/v1/symbols", bearer(made)).json()["items"]) == 20
    assert guarded.server.get("/v1/sources", bearer(guarded.key)).json()["items"][0]["symbols"] == ["A", "B", "C"]
    assert guarded.server.get("/v1/sources", bearer(shown(guarded))).status_code == 403


def test_health_and_the_page_ask_for_none(guarded: Guarded) -> None:
    for path in ("/livez", "/readyz", "/"):
        assert guarded.server.get(path).status_code == 200


# -- tokens that are not good --------------------------------------------------------------------------------------


def bad_tokens(guarded: Guarded) -> dict[str, str]:
    now = int(time.time())
    made = {
        "garbage": "not-a-token-at-all",
        "alg none": "eyJhbGciOiJub25lIiwia2lkIjoiZWMifQ.eyJzdWIiOiJtZSJ9.",
        "another algorithm": token("hmac", headers={"kid": "rsa"}),
        "expired": token(exp=now - 1),
        "not yet valid": token(nbf=now + 60),
        "wrong audience": token(aud="another"),
        "wrong issuer": token(iss="another"),
        "unknown kid": token(headers={"kid": "stranger"}),
        "another's signature": token(key=private("stranger")),
        "grants nothing": token(ticker=None),
        "huge": "a" * 8193,
        "an API key that was never made": "tk_0123456789ab_" + "0" * 64,
    }
    guarded.shown.extend(made.values())
    return made


async def test_a_bad_token_is_refused_before_the_upgrade_and_over_http(guarded: Guarded) -> None:
    for case, made in bad_tokens(guarded).items():
        for path in ("/v1/stream", "/v1/replay?source=day"):
            with pytest.raises(InvalidStatus) as caught:
                async with connect(guarded.server.url.replace("http", "ws") + path, additional_headers=bearer(made)):
                    pass
            answer = caught.value.response
            if case == "huge":  # nor is the head of its request read to the end
                assert answer.status_code == 400
                continue
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), case
            assert json.loads(answer.body or b"")["code"] == "auth_failed"
        for page in PAGES:
            refusal = guarded.server.get(page, bearer(made))
            assert (refusal.status_code, refusal.json()["code"]) == (401, "auth_failed"), case


async def test_a_bad_first_message_ends_the_connection(guarded: Guarded) -> None:
    for case, made in bad_tokens(guarded).items():
        async with connect(guarded.server.stream) as socket:
            await socket.send(json.dumps({"op": "auth", "id": 7, "token": made}))
            code, last = await closed(socket)
        assert (code, last["id"], last["code"], last["fatal"]) == (4401, 7, "auth_failed", True), case


@pytest.mark.parametrize(
    "first",
    ['{"op":"subscribe","symbols":["*"],"id":7}', '{"op":"ping","id":7}', '{"op":"play","id":7}', "{", "[]", ""],
)
async def test_anything_before_the_token_ends_the_connection(guarded: Guarded, first: str) -> None:
    async with connect(guarded.server.stream) as socket:
        await socket.send(first)
        code, last = await closed(socket)
    assert (code, last["type"], last["fatal"]) == (4401, "error", True)
    assert last["code"] == ("auth_required" if "id" in first else "invalid_request")


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/replay?source=day"])
async def test_whoever_shows_no_token_in_time_is_closed(guarded: Guarded, path: str) -> None:
    async with connect(guarded.server.url.replace("http", "ws") + path) as socket:
        began = time.monotonic()
        code, last = await closed(socket)
    assert (code, last["code"]) == (4401, "auth_required")
    assert last["message"] == "expected auth, with a token, within 0.5 s"
    assert 0.4 < time.monotonic() - began < 5


def test_no_token_over_http(guarded: Guarded) -> None:
    for page in PAGES:
        refusal = guarded.server.get(page)
        assert (refusal.status_code, refusal.json()["code"]) == (401, "auth_required")
        assert refusal.headers["www-authenticate"] == "Bearer"
    assert guarded.server.get("/v1/symbols", {"authorization": "Basic YTpi"}).json()["code"] == "auth_failed"


def test_a_token_in_a_query_counts_for_nothing(guarded: Guarded) -> None:
    assert guarded.server.get("/v1/symbols?token=x").json()["code"] == "auth_required"
    assert guarded.server.get("/v1/symbols?token=x", bearer(guarded.key)).status_code == 400


# -- what a grant says ---------------------------------------------------------------------------------------------


async def test_a_grant_counts_on_every_path(guarded: Guarded) -> None:
    grant = {"symbols": ["SIM00*"], "delay_minutes": 0, "channels": ["ticker", "bars"], "interval_ms_min": 300}
    made = shown(guarded, ticker=grant)
    get = guarded.server.get
    assert [item["symbol"] for item in get("/v1/symbols", bearer(made)).json()["items"]] == [
        f"SIM{i:03}" for i in range(1, 10)
    ]
    body = get("/v1/snapshot?symbols=SIM001,SIM011", bearer(made)).json()
    assert [item["symbol"] for item in body["items"]] == ["SIM001"]
    assert body["rejected"] == [{"symbol": "SIM011", "code": "not_entitled"}]
    assert get("/v1/bars/SIM001?interval=1s", bearer(made)).status_code == 200
    for page in ("/v1/bars/SIM011?interval=1s", "/v1/trades/SIM001", "/v1/sse?symbols=*&channel=trades", "/v1/sources"):
        refusal = get(page, bearer(made))
        assert (refusal.status_code, refusal.json()["code"]) == (403, "not_entitled"), page
    async with connect(guarded.server.stream, additional_headers=bearer(made)) as socket:
        ack = await watch(socket, "*", "SIM019", interval_ms=0)
        assert ack["interval_ms"] == 300
        assert ack["rejected"] == [{"symbol": "SIM019", "code": "not_entitled"}]
        assert len((await hear(socket, "snapshot"))["items"]) == 9
    with httpx.stream("GET", guarded.server.url + "/v1/sse?symbols=*", headers=bearer(made), timeout=SOON_S) as stream:
        data = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        found = next(message for message in data if message["type"] == "snapshot")
    assert len(found["items"]) == 9


async def test_replays_are_for_those_who_may(guarded: Guarded) -> None:
    path = guarded.server.url.replace("http", "ws") + "/v1/replay?source=day&autoplay=1&speed=max"
    without, with_ = (
        shown(guarded, ticker={"symbols": ["A", "B"], "delay_minutes": 0, "replay": replay}) for replay in (False, True)
    )
    with pytest.raises(InvalidStatus) as caught:
        async with connect(path, additional_headers=bearer(without)):
            pass
    assert caught.value.response.status_code == 403
    async with connect(path) as socket:
        await socket.send(json.dumps({"op": "auth", "token": without}))
        code, last = await closed(socket)
        assert (code, last["code"]) == (4403, "not_entitled")
    async with connect(path, additional_headers=bearer(with_)) as socket:
        await watch(socket, "*")
        seen = set()
        while (message := await hear(socket, "snapshot", "update", "replay_completed"))["type"] != "replay_completed":
            seen |= {item["symbol"] for item in message["items"]}
        assert seen == {"A", "B"}


async def test_a_grant_of_delayed_data_is_refused_where_none_is_served(guarded: Guarded) -> None:
    made = shown(guarded, ticker={"symbols": ["*"], "delay_minutes": 15})
    with pytest.raises(InvalidStatus) as caught:
        async with connect(guarded.server.stream, additional_headers=bearer(made)):
            pass
    assert caught.value.response.status_code == 403
    assert "15 minutes late" in json.loads(caught.value.response.body or b"")["message"]
    async with connect(guarded.server.stream) as socket:
        await socket.send(json.dumps({"op": "auth", "token": made}))
        code, last = await closed(socket)
        assert (code, last["code"]) == (4403, "not_entitled")
    assert guarded.server.get("/v1/snapshot?symbols=*", bearer(made)).status_code == 403


# -- the end of a grant --------------------------------------------------------------------------------------------


async def test_a_token_that_expires_ends_its_session_unless_it_is_renewed(guarded: Guarded) -> None:
    ends = int(time.time()) + 3
    made = shown(guarded, exp=ends)
    async with (
        connect(guarded.server.stream, additional_headers=bearer(made)) as lapsing,
        connect(guarded.server.stream, additional_headers=bearer(made)) as renewed,
    ):
        assert (await hear(renewed, "authenticated"))["expires_in_ms"] <= 3000
        await renewed.send(json.dumps({"op": "auth", "id": 2, "token": shown(guarded, exp=ends + 600)}))
        assert (await hear(renewed, "authenticated"))["expires_in_ms"] > 590_000
        code, last = await closed(lapsing)
        assert (code, last["code"], last["message"]) == (4401, "auth_failed", "the token has expired")
        assert time.time() >= ends
        await renewed.send(json.dumps({"op": "ping", "id": 3}))
        assert (await hear(renewed, "pong"))["id"] == 3


def test_a_stream_of_events_ends_with_its_token(guarded: Guarded) -> None:
    made = shown(guarded, exp=int(time.time()) + 2)
    with httpx.stream(
        "GET", guarded.server.url + "/v1/sse?symbols=SIM001", headers=bearer(made), timeout=SOON_S
    ) as stream:
        last = [line for line in stream.iter_lines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["message"] == "the token has expired"


async def test_a_revoked_key_loses_its_sessions(guarded: Guarded) -> None:
    made = add(guarded.api_file, "desk-2", Rights(("*",), 0, replay=True), int(time.time() * 1e6))
    guarded.shown.append(made)
    await until_taken(guarded, made)
    replay = guarded.server.url.replace("http", "ws") + "/v1/replay?source=day"
    async with (
        connect(guarded.server.stream, additional_headers=bearer(made)) as live,
        connect(replay, additional_headers=bearer(made)) as replayed,
        connect(guarded.server.stream, additional_headers=bearer(guarded.key)) as other,
    ):
        for socket in (live, replayed, other):
            await hear(socket, "welcome")
        revoked = next(key.id for key in read(guarded.api_file).all.values() if key.subject == "desk-2")
        revoke(guarded.api_file, revoked, int(time.time() * 1e6))
        for socket in (live, replayed):
            code, last = await closed(socket)
            assert (code, last["message"]) == (4401, "the key of the token is not valid any more")
        await other.send(json.dumps({"op": "ping", "id": 3}))
        assert (await hear(other, "pong"))["id"] == 3
    assert guarded.server.get("/v1/symbols", bearer(made)).json()["message"] == "the API key has been revoked"


async def until_taken(guarded: Guarded, made: str) -> None:
    async with asyncio.timeout(SOON_S):
        while guarded.server.get("/v1/symbols", bearer(made)).status_code != 200:
            await asyncio.sleep(0.05)


async def test_a_key_file_that_turns_bad_changes_nothing_and_a_rotation_is_taken_in(guarded: Guarded) -> None:
    good = guarded.jwt_file.read_text()
    made = shown(guarded, "rsa")
    guarded.jwt_file.write_text(good[: len(good) // 2])
    async with asyncio.timeout(SOON_S):
        while not any("keys stay as they were" in line and "jwks.json" in line for line in guarded.server.log):
            await asyncio.sleep(0.05)
    assert guarded.server.get("/v1/symbols", bearer(made)).status_code == 200
    async with connect(guarded.server.stream, additional_headers=bearer(made)) as socket:
        await hear(socket, "welcome")
        guarded.jwt_file.write_text(json.dumps({"keys": [jwk("ec"), jwk("ed")]}))
        assert (await closed(socket))[0] == 4401
    assert guarded.server.get("/v1/symbols", bearer(made)).status_code == 401
    guarded.jwt_file.write_text(good)
    await until_taken(guarded, made)


# -- where no token is asked for -----------------------------------------------------------------------------------


async def test_an_open_server_takes_any_token() -> None:
    with serving("sim:?symbols=2", ready=False) as server:
        async with connect(server.stream, additional_headers=bearer("any")) as socket:
            assert (await hear(socket))["type"] == "welcome"
            await socket.send(json.dumps({"op": "auth", "id": 1, "token": "any"}))
            assert await hear(socket, "authenticated") == {"type": "authenticated", "id": 1}
        assert not any("sees everything" in line for line in server.log)


def test_an_open_server_that_all_can_reach_says_so() -> None:
    with serving("sim:?symbols=2", flags=["--host", "0.0.0.0"], ready=False) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.get("/livez").status_code == 200
        (line,) = [line for line in server.log if "sees everything" in line]
        assert "WARNING" in line
        assert "neither jwt_keys_file nor api_keys_file is set" in line


async def test_who_else_watches_is_for_those_who_may_know(guarded: Guarded) -> None:
    seen = shown(guarded, sub="watcher", ticker={"symbols": ["*"], "delay_minutes": 0, "stats": True})
    async with connect(guarded.server.stream, additional_headers=bearer(seen)) as socket:
        await watch(socket, "SIM001", "SIM002")
        body = guarded.server.get("/v1/stats", bearer(seen)).json()
    assert {"subject": "watcher", "connections": 1, "ticker": 2, "trades": 0, "bars": 0} in body["subjects"]
    assert body["connections"]["live"] >= 1
    assert len(guarded.server.get("/v1/stats?limit=1", bearer(seen)).json()["symbols"]) <= 1
    assert guarded.server.get("/v1/stats?limit=0", bearer(seen)).status_code == 400
    assert guarded.server.get("/v1/stats", bearer(shown(guarded))).status_code == 403
    assert guarded.server.get("/v1/stats").status_code == 401


# -- delayed data --------------------------------------------------------------------------------------------------


async def test_whoever_is_served_late_sees_nothing_sooner(tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", int(time.time() * 1e6)
    live, late, later, too_late = (
        add(keys, f"desk-{minutes}", Rights(("*",), minutes), now) for minutes in (0, 0.04, 0.05, 10)
    )
    flags = ["--api-keys-file", str(keys), "--delays", "0.05"]
    with serving("sim:?symbols=5&rate=500&seed=3", flags=flags) as server:
        for key, delay_ms in ((live, 0), (late, 3000), (later, 3000)):
            async with connect(server.stream, additional_headers=bearer(key)) as socket:
                welcome = await hear(socket, "welcome")
                assert (welcome["delay_ms"], "~3s" in welcome["epoch"]) == (delay_ms, delay_ms > 0)
                await watch(socket, "*")
                for _ in range(5):
                    message = await hear(socket, "snapshot", "update")
                    newest = max(item["ts"] for item in message["items"])
                    age_ms = time.time() * 1000 - newest / 1000
                    assert age_ms >= delay_ms
                    assert age_ms < delay_ms + 2000
            body = server.get("/v1/snapshot?symbols=*", bearer(key)).json()
            assert all(item["ts"] / 1000 <= time.time() * 1000 - delay_ms for item in body["items"])
        with pytest.raises(InvalidStatus) as caught:
            async with connect(server.stream, additional_headers=bearer(too_late)):
                pass
        assert caught.value.response.status_code == 403


async def test_a_late_session_ends_with_its_token_and_not_later(tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", int(time.time() * 1e6)
    key = add(keys, "desk-1", Rights(("*",), 1), now, now + 4_000_000)
    with serving("sim:?symbols=5", flags=["--api-keys-file", str(keys), "--delays", "1"]) as server:
        async with connect(server.stream, additional_headers=bearer(key)) as socket:
            assert (await hear(socket, "authenticated"))["expires_in_ms"] <= 4000
            code, last = await closed(socket)
    assert (code, last["message"]) == (4401, "the token has expired")


async def test_a_subject_has_so_many_connections(guarded: Guarded) -> None:
    rights = {"symbols": ["*"], "delay_minutes": 0, "connections_max": 1}
    made = shown(guarded, sub="one", ticker=rights)
    async with connect(guarded.server.stream, additional_headers=bearer(made)) as first:
        await hear(first, "welcome")
        with pytest.raises(InvalidStatus) as caught:
            async with connect(guarded.server.stream, additional_headers=bearer(made)):
                pass
        assert (caught.value.response.status_code, caught.value.response.headers["retry-after"]) == (429, "5")
        assert guarded.server.get("/v1/sse?symbols=*", bearer(made)).status_code == 429
        async with connect(guarded.server.stream) as second:
            await second.send(json.dumps({"op": "auth", "token": made}))
            code, last = await closed(second)
        assert (code, last["code"], last["fatal"]) == (4429, "rate_limited", True)
    async with connect(guarded.server.stream, additional_headers=bearer(made)) as again:
        await hear(again, "welcome")
