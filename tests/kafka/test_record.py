"""`ticker record` of topics: what a kill takes from it, the topic still has."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from tests.brokers import Broker, MakeTopic
from tests.feeds.conftest import SHARED_DATA
from tests.feeds.test_recorder import footers
from tests.servers import environment, serving
from tests.test_record import recording

BID_FIRST = 1000


def values(count: int, start: int) -> list[tuple[bytes, bytes]]:
    """So many quotes of five symbols, each with a bid of its own."""
    ticks = []
    for bid in range(BID_FIRST + start, BID_FIRST + start + count):
        symbol = f"S{bid % 5}"
        tick = {"symbol": symbol, "ts_event": 1_723_161_360_000_000 + bid, "bid": bid, "ask": bid + 1}
        ticks.append((symbol.encode(), orjson.dumps(tick)))
    return ticks


def recorded(folder: Path) -> list[tuple[str, int, float]]:
    """What the closed parts hold, in their order: partition, offset and bid."""
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path).select(["part", "seq", "bid"]).to_pylist()
        rows += [(row["part"], row["seq"], row["bid"]) for row in table]
    return rows


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about within 30 s")


def test_a_recording_that_was_killed_goes_on_where_it_ends(broker: Broker, topic: MakeTopic, tmp_path: Path) -> None:
    name = topic(3)
    feed = f"kafka://{broker.bootstrap}/{name}?start=earliest"
    sent = values(600, 0)
    broker.produce(name, sent)
    with recording(feed, tmp_path, "--part-s", "0.3") as process:
        wait_for(lambda: len(recorded(tmp_path)) == 600)
        broker.produce(name, values(50, 600))
        wait_for(lambda: any(tmp_path.glob(".*.open")))
        process.send_signal(signal.SIGKILL)
        process.wait()
    broker.produce(name, values(200, 650))
    with recording(feed, tmp_path, "--part-s", "0.3") as process:
        wait_for(lambda: len(recorded(tmp_path)) >= 850)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "going on with the recording after part" in said
    rows = recorded(tmp_path)
    assert sorted(bid for _, _, bid in rows) == [float(bid) for bid in range(BID_FIRST, BID_FIRST + 850)]
    for number in range(3):
        offsets = [seq for part, seq, _ in rows if part == f"{name}/{number}"]
        assert offsets == list(range(len(offsets)))
    found = footers(tmp_path)
    assert len({footer.recording for footer in found}) == 1
    assert [footer.number for footer in found] == list(range(1, len(found) + 1))


def test_a_log_made_anew_is_recorded_from_its_beginning(broker: Broker, topic: MakeTopic, tmp_path: Path) -> None:
    name = topic(1)
    feed = f"kafka://{broker.bootstrap}/{name}?start=earliest"
    for count, total in ((30, 30), (20, 50)):
        broker.produce(name, values(count, 0))
        with recording(feed, tmp_path, "--part-s", "0.3") as process:
            wait_for(lambda total=total: len(recorded(tmp_path)) >= total)  # type: ignore[misc]
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=15)
        broker.delete(name)
        broker.create(name, 1)
    assert [seq for _, seq, _ in recorded(tmp_path)] == [*range(30), *range(20)]
    assert len({footer.epoch for footer in footers(tmp_path)}) == 2


def test_a_real_recording_produced_recorded_and_replayed_gives_the_states_of_its_file(
    broker: Broker, topic: MakeTopic, tmp_path: Path
) -> None:
    file = next((SHARED_DATA / "binance6").glob("*.parquet"), None)
    if file is None:
        pytest.skip("../shared/data/binance6 is absent")
    name = topic(3)
    made = subprocess.run(
        [sys.executable, "-m", "ticker", "produce", str(file), "--to", f"kafka://{broker.bootstrap}/{name}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert "produced 81781 ticks of 6 symbols" in made.stdout, made.stderr
    with recording(f"kafka://{broker.bootstrap}/{name}?start=earliest", tmp_path, "--part-s", "1") as process:
        wait_for(lambda: sum(1 for _ in recorded(tmp_path)) == 81_781)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
    states = []
    for place in (tmp_path, file):
        with serving(f"replay:{place}?speed=max") as server:
            wait_for(lambda server=server: "ended" in server.get("/readyz").text)  # type: ignore[misc]
            items = server.get("/v1/snapshot?symbols=*").json()["items"]
            # A session counts since reading began: with the first tick of all, wherever that stands in the log.
            told = ({**item, "seq": None, "session": None} for item in items)
            states.append({item["symbol"]: item for item in told})
    assert states[0] == states[1]
    assert len(states[0]) == 6
