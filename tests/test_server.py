"""The HTTP edge in this process, under an ASGI server without the fast way, with a feed that the test turns by hand."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any, cast

import orjson
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from feeds.clock import WallClock
from feeds.feed import FeedError
from feeds.ticks import Symbols, Ticks
from tests.hand import NOON, HandFeed
from ticker.server import create_app
from ticker.service import Service
from ticker.settings import Settings


class Bench:
    """An application over a hand-turned feed, and a client of it."""

    def __init__(self, **settings: Any) -> None:
        self.symbols = Symbols()
        self.feed = HandFeed(self.symbols)
        self.service = Service(Settings(**settings), self.symbols, [self.feed], WallClock())
        self.http = TestClient(create_app(self.service))

    def __enter__(self) -> Bench:
        self.http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.__exit__(None, None, None)

    def tick(self, **bids: float) -> None:
        """Bring in a quote of each symbol, and return once it is in the table."""
        self._bring(self.feed.quotes(**bids))

    def end(self, with_: FeedError | None = None) -> None:
        self._bring(with_)

    def _bring(self, batch: Ticks | FeedError | None) -> None:
        async def bring() -> None:
            self.feed.batches.put_nowait(batch)
            for _ in range(5):
                await asyncio.sleep(0)

        assert self.http.portal is not None
        self.http.portal.call(bring)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(interval_ms=0) as bench:
        yield bench


def receive(socket: WebSocketTestSession, type: str) -> dict[str, Any]:
    """The next message of a type; heartbeats and such are passed over."""
    while True:
        message: dict[str, Any] = orjson.loads(socket.receive_text())
        if message["type"] == type:
            return message


def subscribe(socket: WebSocketTestSession, *symbols: str, **more: Any) -> dict[str, Any]:
    socket.send_text(orjson.dumps({"op": "subscribe", "symbols": symbols, **more}).decode())
    return receive(socket, "subscribed")


# -- /v1/stream ----------------------------------------------------------------------------------------------------


def test_a_client_is_welcomed_then_answered_then_sent_state_and_deltas(bench: Bench) -> None:
    bench.tick(AAPL=100.25)
    with bench.http.websocket_connect("/v1/stream") as socket:
        welcome = orjson.loads(socket.receive_text())
        assert (welcome["type"], welcome["protocol"], welcome["mode"]) == ("welcome", "ticker.v1", "live")
        assert subscribe(socket, "AAPL", id=7)["id"] == 7
        assert receive(socket, "snapshot")["items"][0]["bid"] == 100.25
        bench.tick(AAPL=100.5)
        [item] = receive(socket, "update")["items"]
        assert (item["prev"], item["seq"], item["n"], item["bid"], item["ask"]) == (1, 2, 1, 100.5, 101.0)
        assert "bid_size" not in item


def test_the_subprotocol_is_chosen_where_it_is_offered(bench: Bench) -> None:
    for offered, chosen in ((["other", "ticker.v1"], "ticker.v1"), (["other"], None)):
        with bench.http.websocket_connect("/v1/stream", subprotocols=offered) as socket:
            assert socket.accepted_subprotocol == chosen


def test_binary_and_malformed_messages_are_answered_and_the_connection_lives(bench: Bench) -> None:
    with bench.http.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(b"\xff\x00")
        assert receive(socket, "error")["code"] == "invalid_request"
        socket.send_text("{")
        assert receive(socket, "error")["fatal"] is False
        socket.send_text('{"op":"ping","id":"x"}')
        assert receive(socket, "pong")["id"] == "x"


def test_repeated_violations_end_the_connection() -> None:
    with Bench(violations_max=3) as bench, bench.http.websocket_connect("/v1/stream") as socket:
        for _ in range(4):
            socket.send_text("nonsense")
        fatal = [receive(socket, "error")["fatal"] for _ in range(4)]
        assert fatal == [False, False, False, True]
        with pytest.raises(WebSocketDisconnect) as ended:
            receive(socket, "nothing more")
        assert ended.value.code == 4400


def test_a_client_that_never_speaks_is_closed() -> None:
    with Bench(first_message_s_max=0.05) as bench, bench.http.websocket_connect("/v1/stream") as socket:
        with pytest.raises(WebSocketDisconnect) as ended:
            receive(socket, "nothing")
        assert ended.value.code == 4408


def test_one_client_too_many_is_refused_before_the_upgrade() -> None:
    with Bench(connections_max=1) as bench, bench.http.websocket_connect("/v1/stream") as socket:
        receive(socket, "welcome")
        with pytest.raises(WebSocketDenialResponse) as refused, bench.http.websocket_connect("/v1/stream"):
            pass
        assert refused.value.status_code == 503
        assert refused.value.headers["retry-after"] == "5"


def test_a_client_that_leaves_is_forgotten(bench: Bench) -> None:
    with bench.http.websocket_connect("/v1/stream") as socket:
        subscribe(socket, "AAPL")
        assert len(bench.service.hub.clients) == 1
    bench.tick(AAPL=1.0)
    assert not bench.service.hub.clients
    assert not bench.service.hub.paces


def test_another_websocket_is_not_found(bench: Bench) -> None:
    for path in ("/v1/stream/", "/v1/other"):
        with pytest.raises(WebSocketDenialResponse) as refused, bench.http.websocket_connect(path):
            pass
        assert refused.value.status_code == 404


def test_of_a_stream_of_events_a_head_is_its_headers(bench: Bench) -> None:
    answer = bench.http.head("/v1/sse?symbols=A")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not bench.service.hub.clients


# -- feeds ---------------------------------------------------------------------------------------------------------


def test_the_state_of_a_feed_is_told_as_it_changes() -> None:
    with Bench(stale_ms=100, heartbeat_ms=50) as bench, bench.http.websocket_connect("/v1/stream") as socket:
        assert receive(socket, "heartbeat")["feeds"] == {"hand": {"state": "starting", "age_ms": None, "lag": None}}
        bench.tick(AAPL=1.0)
        told = [receive(socket, "status") for _ in range(2)]
        assert [(status["feed"], status["state"]) for status in told] == [("hand", "live"), ("hand", "stale")]
        assert told[1]["age_ms"] >= 100


def test_a_feed_that_ends_or_fails_leaves_the_service_serving() -> None:
    for ending, state in ((None, "ended"), (FeedError("day.csv: truncated"), "down")):
        with Bench(interval_ms=0) as bench:
            bench.tick(AAPL=1.0)
            bench.end(ending)
            assert bench.http.get("/readyz").json() == {
                "ready": True,
                "feeds": {"hand": {"state": state, "age_ms": pytest.approx(0, abs=2000), "lag": None}},
            }
            assert bench.http.get("/v1/snapshot?symbols=AAPL").json()["items"][0]["bid"] == 1.0


def test_readiness_waits_for_the_first_ticks_and_liveness_does_not(bench: Bench) -> None:
    assert bench.http.get("/livez").text == "ok\n"
    assert bench.http.get("/readyz").status_code == 503
    bench.tick(AAPL=1.0)
    assert bench.http.get("/readyz").status_code == 200


def test_a_bug_in_the_service_takes_the_server_down_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    with Bench() as bench:
        bench.end(cast(FeedError, ValueError("a bug")))
        bench.http.get("/livez")
        assert bench.service.failed
        assert raised == [signal.SIGTERM]


# -- /v1/snapshot --------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_the_fields_asked_for_of_symbols_with_a_value(bench: Bench) -> None:
    bench.tick(AAPL=100.25, MSFT=50.0)
    answer = bench.http.get("/v1/snapshot?symbols=AAPL,NONE,a'b&fields=bid,ask")
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["epoch", "ts", "items", "pending", "rejected"]
    assert body["epoch"] == "hand-1"
    assert body["items"] == [{"symbol": "AAPL", "seq": 1, "n": 1, "ts": NOON + 1, "bid": 100.25, "ask": 100.75}]
    assert body["pending"] == ["NONE"]
    assert body["rejected"] == [{"symbol": "a'b", "code": "invalid_symbol"}]
    assert list(bench.http.get("/v1/snapshot?symbols=*").json()) == ["epoch", "ts", "items"]


def test_a_snapshot_that_the_caller_has_is_not_sent_again(bench: Bench) -> None:
    bench.tick(AAPL=100.25)
    path = "/v1/snapshot?symbols=AAPL"
    tag = bench.http.get(path).headers["etag"]
    assert tag.startswith('W/"')
    again = bench.http.get(path, headers={"if-none-match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert bench.http.get(path + "&fields=bid", headers={"if-none-match": tag}).status_code == 200
    bench.tick(AAPL=100.25)
    assert bench.http.get(path, headers={"if-none-match": tag}).status_code == 200


def test_a_long_poll_answers_once_something_changed(bench: Bench) -> None:
    bench.tick(AAPL=1.0)
    path = "/v1/snapshot?symbols=AAPL,LATER&wait=10"
    tag = bench.http.get(path).headers["etag"]
    for change in ({"AAPL": 2.0}, {"LATER": 3.0}):
        answers: list[Any] = []
        with asking(bench, path, tag, answers):
            bench.tick(OTHER=1.0)
            bench.tick(**change)
        assert answers[0].status_code == 200
        found = {item["symbol"]: item["bid"] for item in answers[0].json()["items"]}
        assert found.items() >= change.items()
        tag = answers[0].headers["etag"]


def test_a_request_without_a_tag_that_holds_is_answered_at_once(bench: Bench) -> None:
    bench.tick(AAPL=1.0)
    for tag in ("", '"another"'):
        answer = bench.http.get("/v1/snapshot?symbols=AAPL&wait=30", headers={"if-none-match": tag})
        assert answer.status_code == 200


def test_a_request_that_is_dearer_than_a_client_may_pay_is_answered_429() -> None:
    with Bench(messages_per_s_max=1) as bench:
        answer = bench.http.get("/v1/snapshot?symbols=" + ",".join(f"A{i}*" for i in range(30)))
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


def test_a_long_poll_in_which_nothing_changed_answers_304(bench: Bench) -> None:
    bench.tick(AAPL=1.0)
    path = "/v1/snapshot?symbols=AAPL&wait=0.1"
    tag = bench.http.get(path).headers["etag"]
    assert bench.http.get(path, headers={"if-none-match": tag}).status_code == 304
    assert not bench.service.hub.clients


class asking:  # noqa: N801 - reads as a statement
    """A request in a thread of its own, under way once the hub has its client."""

    def __init__(self, bench: Bench, path: str, tag: str, answers: list[Any]) -> None:
        import threading

        def ask() -> None:
            answers.append(bench.http.get(path, headers={"if-none-match": tag}))

        self._bench = bench
        self._thread = threading.Thread(target=ask)

    def __enter__(self) -> None:
        self._thread.start()
        while not self._bench.service.hub.clients:
            self._thread.join(0.005)

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/snapshot", "symbols: expected names or patterns"),
        ("/v1/snapshot?symbols=,", "symbols: expected names or patterns"),
        ("/v1/snapshot?symbols=A&fields=bid,nope", "fields: expected one of bid, "),
        ("/v1/snapshot?symbols=A&fields=", "fields: expected a list of field names"),
        ("/v1/snapshot?symbols=A&wait=soon", "wait: expected 0 to 30, was 'soon'"),
        ("/v1/snapshot?symbols=A&wait=nan", "wait: expected 0 to 30, was 'nan'"),
        ("/v1/snapshot?symbols=A&wait=31", "wait: expected 0 to 30, was '31'"),
        ("/v1/snapshot?symbols=A&symbols=B", "symbols: expected once, with commas between, was there twice"),
        ("/v1/snapshot?symbols=" + ",".join(map(str, range(1033))), "symbols: expected at most 1032, was 1033"),
        ("/v1/snapshot?symbol=A", "query: expected one of symbols, fields, wait, was 'symbol'"),
        ("/v1/sse?symbols=A&interval_ms=-5", "interval_ms: expected a whole number from 0 to 60000, was '-5'"),
        ("/v1/sse?symbols=A&interval_ms=60001", "interval_ms: expected 0 to 60000, was 60001"),
        ("/v1/symbols?limit=0", "limit: expected 1 to 1000, was '0'"),
        ("/v1/symbols?limit=1001", "limit: expected 1 to 1000, was '1001'"),
    ],
)
def test_a_bad_query_is_answered_with_what_was_expected(bench: Bench, path: str, says: str) -> None:
    answer = bench.http.get(path)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert says in answer.json()["message"]


# -- /v1/symbols ---------------------------------------------------------------------------------------------------


def test_symbols_are_listed_by_name_and_page(bench: Bench) -> None:
    bench.symbols.claim("AAA", bench.symbols.part("hand"))
    bench.tick(MSFT=50.0, AAPL=100.25, AMZN=3.125)
    body = bench.http.get("/v1/symbols?limit=2").json()
    assert body["epoch"] == "hand-1"
    blank = {"feed": "hand", "seq": 0, "ts": None, "price_decimals": 0, "size_decimals": 0}
    aapl = {"symbol": "AAPL", "feed": "hand", "seq": 2, "ts": NOON + 2, "price_decimals": 2, "size_decimals": 0}
    assert body["items"] == [{"symbol": "AAA", **blank}, aapl]
    rest = bench.http.get(f"/v1/symbols?after={body['next']}").json()
    assert ([item["symbol"] for item in rest["items"]], rest["next"]) == (["AMZN", "MSFT"], None)
    assert [item["symbol"] for item in bench.http.get("/v1/symbols?prefix=AM").json()["items"]] == ["AMZN"]
    assert bench.http.get("/v1/symbols?prefix=Z").json()["items"] == []


def test_the_page_is_served(bench: Bench) -> None:
    answer = bench.http.get("/")
    assert answer.status_code == 200
    assert "<title>ticker</title>" in answer.text
