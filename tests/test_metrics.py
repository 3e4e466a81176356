"""The metrics: they say what clients saw, no symbol is ever a label, and all that there is is documented."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect

from tests.feeds.conftest import T0, quote, trade, write_csv
from tests.ops.names import METRICS
from tests.servers import Server, serving
from ticker.access import EVERYTHING, Rights
from ticker.counts import Histogram
from ticker.keys import add

ROOT = Path(__file__).parent.parent
#: What the process itself tells, on Linux.
PROCESS = re.compile(r"process_\w+")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Scrape(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        super().__init__(
            ((sample.name, frozenset(sample.labels.items())), sample.value)
            for family in self.families
            for sample in family.samples
        )

    def value(self, name: str, **labels: str) -> float:
        return self[name, frozenset(labels.items())]

    def labels(self, label: str) -> set[str]:
        return {value for _, labels in self for name, value in labels if name == label}


def scrape(server: Server, **headers: str) -> Scrape:
    answer = server.get("/metrics", headers)
    assert answer.status_code == 200
    return Scrape(answer.text)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("sim:?symbols=20&rate=400&seed=3") as running:
        yield running


# -- what it says --------------------------------------------------------------------------------------------------


class Seen:
    """What a client has seen."""

    def __init__(self) -> None:
        self.messages = self.bytes = 0
        self.items = {"ticker": 0, "trades": 0, "bars": 0}
        self.types: set[str] = set()

    async def read(self, client: ClientConnection) -> None:
        """Take in one message: with its frame's head, and of each symbol in it, what there is of that as one."""
        text = await client.recv(decode=False)
        body = json.loads(text)
        self.messages += 1
        self.bytes += len(text) + (2 if len(text) < 126 else 4 if len(text) < 65_536 else 10)
        self.types.add(body["type"])
        if "items" in body:
            channel = body.get("channel", body["type"])
            self.items[channel] += len({item["symbol"] for item in body["items"]})


async def test_what_was_sent_is_what_a_client_saw() -> None:
    with serving("sim:?symbols=20&rate=400&seed=3", flags=["--heartbeat-ms", "60000"]) as server:
        before, seen = scrape(server), Seen()
        async with connect(server.stream) as client, asyncio.timeout(20):
            for more in ({}, {"channel": "trades"}, {"channel": "bars", "interval": "1s"}):
                await client.send(json.dumps({"op": "subscribe", "symbols": ["*"], **more}))
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                await seen.read(client)
            during = scrape(server)
            sent = during.value("ticker_messages_sent_total") - before.value("ticker_messages_sent_total")
            while seen.messages < sent:  # what was under way
                await seen.read(client)
        assert during.value("ticker_connections", transport="websocket", mode="live") == 1
        assert during.value("ticker_subscriptions", channel="ticker") == 20
        assert during.value("ticker_subscriptions", channel="bars") == 20
        assert during.value("ticker_lanes", channel="trades") == 1
        assert {"welcome", "subscribed", "snapshot", "update", "trades", "bars"} <= seen.types
        assert seen.messages == sent
        assert seen.bytes == during.value("ticker_sent_bytes_total") - before.value("ticker_sent_bytes_total")
        for channel, count in seen.items.items():
            assert during.value("ticker_items_sent_total", channel=channel) == count
            assert during.value("ticker_rounds_total", channel=channel) > 0
        assert during.value("ticker_latency_seconds_count", since="venue") > 10
        assert during.value("ticker_latency_seconds_sum", since="receive") < 10
        assert during.value("ticker_round_duration_seconds_count") > 10
        assert during.value("ticker_conflation_ratio") >= 1
        after = scrape(server)
        assert after.value("ticker_connections", transport="websocket", mode="live") == 0
        assert after.value("ticker_subscriptions", channel="ticker") == 0


def test_how_feeds_are(server: Server, tmp_path: Path) -> None:
    records = [quote(T0 + i, "A", bid=1, ask=2) for i in range(5)] + [trade(T0 + 9, "A", price=1, size=1)]
    path = write_csv(tmp_path / "day.csv", records)
    path.write_text(path.read_text() + "no,tick,at,all\n")
    with serving(f"replay:{path}?speed=max", "sim:?symbols=1&rate=50") as two:
        until = time.monotonic() + 10
        while (found := scrape(two)).value("ticker_feed_state", feed="replay", state="ended") != 1:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert found.value("ticker_ticks_total", feed="replay") == 6
        assert found.value("ticker_bad_rows_total", feed="replay") == 1
        assert found.value("ticker_feed_state", feed="replay", state="live") == 0
        assert found.value("ticker_feed_state", feed="sim", state="live") == 1
        assert found.value("ticker_feed_age_seconds", feed="sim") < 5
        assert found.labels("feed") == {"replay", "sim"}
        assert found.labels("state") == {"starting", "live", "stale", "down", "ended"}
    assert scrape(server).value("ticker_ready") == 1
    assert scrape(server).value("ticker_symbols") == 20


async def test_refusals_and_closes_are_counted_by_reason_and_code(tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", int(time.time() * 1e6)
    good = add(keys, "ops", EVERYTHING, now)
    none = add(keys, "desk", Rights(("A",), 0), now)
    port = free_port()
    flags = ["--api-keys-file", str(keys), "--internal-port", str(port), "--auth-s-max", "0.2"]
    with serving("sim:?symbols=2", flags=flags) as server:
        async with connect(server.stream) as client:
            await client.wait_closed()
        server.get("/v1/symbols", {"authorization": "Bearer x"})
        server.get("/v1/stats", {"authorization": f"Bearer {none}"})
        async with connect(server.stream, additional_headers={"authorization": f"Bearer {good}"}):
            held = Scrape(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        assert held.value("ticker_refusals_total", reason="auth") == 2
        assert held.value("ticker_refusals_total", reason="grant") == 1
        assert held.value("ticker_closes_total", code="4401") == 1
        assert held.value("ticker_keys_valid", file="api") == 1
        assert held.value("ticker_subjects") == 1
        keys.write_text("{")
        until = time.monotonic() + 10
        while Scrape(httpx.get(f"http://127.0.0.1:{port}/metrics").text).value("ticker_keys_valid", file="api") != 0:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


def test_no_symbol_is_a_label(tmp_path: Path) -> None:
    names = [f"EVIL{i}}}" for i in range(50)] + ['A{b="c']
    path = write_csv(tmp_path / "day.csv", [quote(T0 + i, name, bid=1, ask=2) for i, name in enumerate(names)])
    with (
        serving(f"replay:{path}?speed=max") as server,
        httpx.stream("GET", f"{server.url}/v1/sse?symbols=*") as events,
    ):
        lines = events.iter_lines()
        while next(lines) != "event: snapshot":
            pass
        text = server.get("/metrics").text
    assert "EVIL" not in text
    assert Scrape(text).value("ticker_connections", transport="sse", mode="live") == 1
    assert len(text.splitlines()) < 300


# -- where it is ---------------------------------------------------------------------------------------------------


def test_on_a_port_apart_and_not_on_the_public_one() -> None:
    port = free_port()
    with serving("sim:?symbols=2", flags=["--internal-port", str(port)]) as server:
        assert server.get("/metrics").status_code == 404
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            assert "ticker_info" in http.get("/metrics").text
            assert http.get("/livez").status_code == http.get("/readyz").status_code == 200
            assert http.get("/v1/symbols").status_code == 404
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 3


def test_a_port_apart_that_is_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serving_there = serving("sim:?symbols=2", flags=["--internal-port", str(port)])
        said = f"ticker: cannot listen on 127.0.0.1 port {port}: Address already in use"
        with pytest.raises(AssertionError, match=re.escape(said)):
            serving_there.__enter__()


def test_on_the_public_port_it_asks_for_a_grant_where_tokens_are_asked_for(tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", int(time.time() * 1e6)
    good, other = add(keys, "ops", EVERYTHING, now), add(keys, "desk", Rights(("A",), 0), now)
    with serving("sim:?symbols=2", flags=["--api-keys-file", str(keys)]) as server:
        assert server.get("/metrics").status_code == 401
        assert server.get("/metrics", {"authorization": f"Bearer {other}"}).status_code == 403
        assert scrape(server, authorization=f"Bearer {good}").value("ticker_ready") == 1


async def test_draining_is_told(tmp_path: Path) -> None:
    port = free_port()
    flags = ["--internal-port", str(port), "--drain-delay-s", "20"]
    with serving("sim:?symbols=2", flags=flags) as server:
        async with connect(server.stream) as client:
            server.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 10
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                while (found := Scrape((await http.get("/metrics")).text)).value("ticker_draining") != 1:
                    assert time.monotonic() < until
                    await asyncio.sleep(0.02)
                assert found.value("ticker_ready") == 0
                assert (await http.get("/readyz")).status_code == 503
            await client.close()


def test_either_format_is_spoken(server: Server) -> None:
    plain = server.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    open_ = server.get("/metrics", {"accept": "application/openmetrics-text; version=1.0.0"})
    assert open_.headers["content-type"].startswith("application/openmetrics-text")
    assert open_.text.endswith("# EOF\n")


# -- the rest ------------------------------------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """The metrics that docs/deploy.md lists, by name, and their types."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    section = text[text.index("## Metrics") :]
    return dict(re.findall(r"^\| `(ticker_\w+)(?:\{\w+(?:,\w+)*\})?` \| (\w+) \|", section, re.MULTILINE))


def test_every_metric_is_documented(server: Server) -> None:
    found = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in scrape(server).families
        if not PROCESS.fullmatch(family.name)
    }
    assert documented() == found
    known = {name for name in METRICS if not PROCESS.fullmatch(name)}
    assert found.keys() == known, "what alerts and panels may ask for"


def test_a_histogram_counts_each_value_once() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0, 0.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([3, 2, 1], 8.0)
