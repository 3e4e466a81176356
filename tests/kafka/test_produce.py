"""`ticker produce`: what it says is in the topic is there, once, in order and where other clients would put it."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner

from feeds.encode import ENCODERS, values
from feeds.feed import Feed, FeedError
from feeds.kafka.address import destination
from feeds.kafka.producer import Producer, Target
from feeds.kafka.setup import Security
from feeds.options import Spec
from feeds.spec import open_feed
from feeds.ticks import COLUMNS, NO_TIME, Ints, Symbols, Ticks
from tests.apache_kafka import PASSWORD, USER, Apache
from tests.brokers import Broker, Local, MakeTopic, new_topic
from tests.feeds.conftest import SHARED_DATA, T0, write_csv
from tests.feeds.test_ticks import ticks as blank
from tests.kafka.test_brokers import consuming, take
from tests.proxies import Proxy, free_port
from tests.servers import START_S_MAX, STOP_S_MAX, environment
from ticker.produce import Creation, Tally, produce, progress, summary

SIM = "sim:?symbols=30&rate=20000&seed=7&start=2024-08-08T12:00:00Z"
SUMMARY = re.compile(
    r"produced (\d+) ticks of (\d+) symbols to (\S+) \((\d+) partitions?\) in \d+\.\d s, [\d,]+/s"
    r"(?:; (\d+) more were not acknowledged, and may be there or not)?"
    r"(?:; the broker has (\d+) new records(, of which others wrote some)?)?\n"
)


def target_of(broker: Broker, topic: str, options: str = "") -> Target:
    return Target(destination(Spec(f"kafka://{broker.bootstrap}/{topic}{options}")), Security())


async def produced(source: str | Feed, target: Target, symbols: Symbols | None = None, **how: Any) -> int:
    """The exit code of producing `source` to `target`."""
    symbols = Symbols() if symbols is None else symbols
    feed = open_feed(source, symbols) if isinstance(source, str) else source
    return await produce(feed, symbols, target, **how)


async def ticks_of(spec: str, count: int) -> tuple[Ticks, list[str]]:
    """The first `count` ticks of a feed, and the keys of its rows."""
    symbols = Symbols()
    batches: list[Ticks] = []
    items: Any = aiter(open_feed(spec, symbols))
    async with asyncio.timeout(START_S_MAX), aclosing(items):
        async for item in items:
            batches += [item] if isinstance(item, Ticks) else []
            if sum(map(len, batches)) >= count:
                break
    return Ticks.concat(batches)[:count], symbols.names


def by_key(ticks: Ticks, names: Sequence[str]) -> dict[str, Ticks]:
    return {names[row]: ticks[ticks.row == row] for row in np.unique(ticks.row)}


def assert_same(found: Ticks, expected: Ticks) -> None:
    """To the last bit, but for rows and positions, which are each log's own."""
    for name in COLUMNS:
        if name not in {"row", "seq"}:
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


def command(source: str, to: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "ticker", "produce", source, "--to", to, *flags]


def ran(source: str, to: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A `ticker produce` that ends by itself."""
    return subprocess.run(
        command(source, to, *flags), capture_output=True, text=True, timeout=START_S_MAX, env=environment(), check=False
    )


@contextmanager
def producing(source: str, to: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A running `ticker produce`, which is killed at the end if it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(source, to, *flags), stdout=pipe, stderr=pipe, text=True, env=environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


async def soon(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(START_S_MAX):
        while not condition():
            await asyncio.sleep(0.02)


# -- what is in the topic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_each_tick_is_a_record_in_its_symbol_s_order_where_its_key_belongs(
    broker: Broker, topic: MakeTopic, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    name, count = topic(3), 4000
    began_ms = time.time_ns() // 1_000_000
    assert await produced(SIM, target_of(broker, name, f"?format={format}"), count=count) == 0
    said = SUMMARY.fullmatch(capsys.readouterr().out)
    assert said
    assert said.groups() == (str(count), "30", name, "3", None, str(count), None)
    sent, names = await ticks_of(SIM, count)
    expected: dict[bytes, list[bytes]] = defaultdict(list)
    for row, value in zip(sent.row, values(sent, names, ENCODERS[format]), strict=True):
        expected[names[row].encode()].append(value)
    async with consuming(broker.bootstrap, name, 3) as consumer:
        records = await take(consumer, count)
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for record in records:
        found[record.key].append(record.value)
        assert record.partition == DefaultPartitioner()(record.key, [0, 1, 2], [0, 1, 2])
        assert began_ms <= record.timestamp <= time.time_ns() // 1_000_000
    assert found == expected
    assert {record.partition for record in records} == {0, 1, 2}


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_read_back(broker: Broker, topic: MakeTopic, compression: str) -> None:
    name, count = topic(2), 3000
    assert await produced(SIM, target_of(broker, name), count=count, compression=compression) == 0
    sent = by_key(*await ticks_of(SIM, count))
    found = by_key(*await ticks_of(f"kafka://{broker.bootstrap}/{name}?start=earliest", count))
    assert found.keys() == sent.keys()
    for key, ticks in sent.items():
        assert_same(found[key], ticks)


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_a_real_recording_comes_back_from_the_topic_as_it_is_in_its_file(
    broker: Broker, topic: MakeTopic, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    file = SHARED_DATA / "binance6" / "binance6_l1.parquet"
    if not file.exists():
        pytest.skip("../shared/data/binance6 is absent")
    name, count = topic(3), 81_781
    target = target_of(broker, name, f"?format={format}")
    assert await produced(f"replay:{file}?speed=max", target) == 0
    said = SUMMARY.fullmatch(capsys.readouterr().out)
    assert said
    assert said.groups() == (str(count), "6", name, "3", None, str(count), None)
    assert sum(await target.ends(3)) == count
    sent = by_key(*await ticks_of(f"replay:{file}?speed=max", count))
    found = by_key(*await ticks_of(f"kafka://{broker.bootstrap}/{name}?start=earliest&format={format}", count))
    assert found.keys() == sent.keys()
    for key, ticks in sent.items():
        assert_same(found[key], ticks)


async def test_several_runs_add_up_and_each_counts_its_own(
    broker: Broker, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    target = target_of(broker, topic(3))
    for count in (1, 700, 20):
        assert await produced(SIM, target, count=count) == 0
        assert f"the broker has {count} new records\n" in capsys.readouterr().out
    assert sum(await target.ends(3)) == 721


async def test_what_does_not_go_into_one_batch_goes_into_several(broker: Broker, topic: MakeTopic) -> None:
    target, symbols, count = target_of(broker, topic(1)), Symbols(), 10_000
    row = symbols.claim("A", symbols.part("sim"))
    ticks = blank(count, row=np.full(count, row), ts_recv=np.arange(T0, T0 + count))
    async with Producer(target, 1, symbols, compression="none", patience_s=30) as producer:
        await producer.send(ticks)
        await producer.flush()
        assert producer.acknowledged == count
    assert sum(await target.ends(1)) == count


# -- the topic -----------------------------------------------------------------------------------------------------


async def test_a_topic_that_is_not_there_is_created_on_demand_alone(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    name = new_topic()
    target = target_of(broker, name)
    assert await produced(SIM, target, count=10) == 2
    assert capsys.readouterr().err == f"ticker: topic {name}: there is no such topic (--create makes it)\n"
    assert broker._partitions(name) == 0
    try:
        assert await produced(SIM, target, count=10, creation=Creation(4, -1)) == 0
        assert broker._partitions(name) == 4
        assert await produced(SIM, target, count=5, creation=Creation(7, 1)) == 0
        assert broker._partitions(name) == 4
        assert "(4 partitions)" in capsys.readouterr().out
        assert sum(await target.ends(4)) == 15
    finally:
        broker.delete(name)


async def test_creating_a_topic_that_is_there_leaves_it_as_it_is(broker: Broker, topic: MakeTopic) -> None:
    target = target_of(broker, topic(3))
    await target.create(1)
    assert await target.partitions() == 3


async def test_what_others_write_meanwhile_is_told(
    broker: Broker, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    name = topic(2)

    class Crowded(HandFeed):
        async def __aiter__(self) -> AsyncGenerator[Any]:
            async for item in super().__aiter__():
                yield item
            await asyncio.to_thread(broker.produce, name, [(b"other", b"{}")] * 3)

    feed, symbols = await hand_feed(Crowded, 500)
    assert await produced(feed, target_of(broker, name), symbols) == 0
    said = SUMMARY.fullmatch(capsys.readouterr().out)
    assert said
    assert (said[1], said[6], said[7]) == ("500", "503", ", of which others wrote some")


async def test_fewer_records_than_were_acknowledged_are_an_error(
    broker: Broker, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(Target):
        async def ends(self, partitions: int) -> Ints:
            return np.minimum(await super().ends(partitions), 20)

    name = topic(1)
    target = Forgetful(destination(Spec(f"kafka://{broker.bootstrap}/{name}")), Security())
    assert await produced(SIM, target, count=100) == 1
    out, err = capsys.readouterr()
    assert "produced 100 ticks" in out
    assert err == f"ticker: topic {name}: acknowledged 100 records, has 20 new\n"


# -- trouble -------------------------------------------------------------------------------------------------------


async def test_a_broker_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = Broker(f"127.0.0.1:{free_port()}")
    assert await produced(SIM, target_of(nowhere, "ticks"), count=10, creation=Creation(1, 1)) == 1
    assert capsys.readouterr() == ("", f"ticker: {nowhere.bootstrap}: connection refused\n")


async def test_a_broker_that_goes_away_for_good_is_one_line_and_what_was_acknowledged_is_told(
    own_broker: Local, capsys: pytest.CaptureFixture[str]
) -> None:
    name = new_topic()
    own_broker.create(name, 2)
    target = target_of(own_broker, name)
    running = asyncio.create_task(produced(SIM, target, patience_s=1.0))
    await asyncio.sleep(0)
    # A request holds a batch of each partition, some 3500 ticks in all, and one follows the other's acknowledgement.
    await asyncio.to_thread(until, lambda: sum(own_broker.end_offsets(name)) > 8000)
    own_broker.kill()
    async with asyncio.timeout(START_S_MAX):
        assert await running == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(r"ticker: nothing was acknowledged for 1 s: 127\.0\.0\.1:\d+: [a-z ]+\n", err)
    said = SUMMARY.fullmatch(out)
    assert said
    assert int(said[1]) > 0
    assert int(said[1]) + int(said[5]) > 8000  # the last acknowledgement may have been lost
    assert said[6] is None


async def test_what_is_cut_off_is_sent_again_and_comes_once_and_in_order(
    own_broker: Local, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    name, count = new_topic(), 30_000
    own_broker.create(name, 3)
    target = target_of(own_broker, name)
    running = asyncio.create_task(produced(SIM, target, count=count))
    for share in (0.1, 0.3, 0.5, 0.7):
        await asyncio.to_thread(until, lambda: sum(own_broker.end_offsets(name)) > share * count)  # noqa: B023
        proxy.cut()
        proxy.heal()
    async with asyncio.timeout(START_S_MAX):
        assert await running == 0
    said = SUMMARY.fullmatch(capsys.readouterr().out)
    assert said
    assert said.groups() == (str(count), "30", name, "3", None, str(count), None)
    sent = by_key(*await ticks_of(f"{SIM}&speed=max", count))
    found = by_key(*await ticks_of(f"kafka://{own_broker.bootstrap}/{name}?start=earliest", count))
    for key, ticks in sent.items():
        assert_same(found[key], ticks)


async def test_a_topic_that_is_made_anew_with_fewer_partitions_is_one_line(
    apache: Apache, capsys: pytest.CaptureFixture[str]
) -> None:
    name = new_topic()
    apache.create(name, 8)
    running = asyncio.create_task(produced(SIM, target_of(apache, name), patience_s=2.0))
    await asyncio.sleep(0)
    await asyncio.to_thread(until, lambda: sum(apache.end_offsets(name)) > 1000)
    await asyncio.to_thread(apache.delete, name)
    await asyncio.to_thread(apache.create, name, 1)
    async with asyncio.timeout(START_S_MAX):
        assert await running == 1
    out, err = capsys.readouterr()
    assert err.startswith("ticker: ")
    assert err.count("\n") == 1
    assert SUMMARY.fullmatch(out)
    apache.delete(name)


async def test_a_source_that_fails_is_one_line_and_what_it_brought_is_there(
    broker: Broker, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(HandFeed):
        async def __aiter__(self) -> AsyncGenerator[Any]:
            async for item in super().__aiter__():
                yield item
            raise FeedError("day.csv: cut off")

    feed, symbols = await hand_feed(Broken, 300)
    assert await produced(feed, target_of(broker, topic(2)), symbols) == 1
    out, err = capsys.readouterr()
    assert err == "ticker: day.csv: cut off\n"
    assert "produced 300 ticks" in out
    assert out.endswith("the broker has 300 new records\n")


async def test_a_source_that_breaks_crashes(broker: Broker, topic: MakeTopic) -> None:
    class Buggy(HandFeed):
        async def __aiter__(self) -> AsyncGenerator[Any]:
            yield object()  # which is no ticks
            raise ZeroDivisionError

    feed, symbols = await hand_feed(Buggy, 1)
    with pytest.raises(ZeroDivisionError):
        await produced(feed, target_of(broker, topic(1)), symbols)


class HandFeed:
    """A feed of ticks given to it."""

    name = "hand"
    epoch = "hand-1"
    closed = True
    trouble = None
    warm = True
    stats: Any = None

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks

    async def __aiter__(self) -> AsyncGenerator[Any]:
        yield self._ticks


async def hand_feed(kind: type[HandFeed], count: int) -> tuple[HandFeed, Symbols]:
    ticks, names = await ticks_of(f"{SIM}&speed=max", count)
    symbols = Symbols()
    symbols.claim_all(names, symbols.part("hand"))
    return kind(ticks), symbols


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_when_all_that_was_taken_is_there(
    broker: Broker, topic: MakeTopic, number: signal.Signals, code: int
) -> None:
    name = topic(3)
    with producing(SIM, f"kafka://{broker.bootstrap}/{name}") as process:
        until(lambda: sum(broker.end_offsets(name)) > 100)
        process.send_signal(number)
        out, err = process.communicate(timeout=STOP_S_MAX)
    assert process.returncode == code, err
    said = SUMMARY.fullmatch(out)
    assert said
    assert said[5] is None
    assert said[1] == said[6]
    assert sum(asyncio.run(target_of(broker, name).ends(3))) == int(said[1])


def test_a_second_signal_ends_it_at_once(own_broker: Local, proxy: Proxy) -> None:
    name = new_topic()
    own_broker.create(name, 1)
    with producing(SIM, f"kafka://{own_broker.bootstrap}/{name}") as process:
        until(lambda: sum(own_broker.end_offsets(name)) > 100)
        proxy.stall()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # it waits for what it sent to be acknowledged
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S_MAX) == 130
        proxy.heal()


def test_files_globs_and_folders_are_one_log_of_what_is_asked_for(
    broker: Broker, topic: MakeTopic, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    for place, file in enumerate(["a1.csv", "a2.csv", "b/c.csv"]):
        rows = [
            {"s": key, "ts_recv": 1_700_000_000 + 3 * n + place, "px": n, "size": 1}
            for n in range(10)
            for key in ("X", "Y")
        ]
        write_csv(tmp_path / file, rows)
    name = topic(1)
    flags = ["--map", "price:px", "--symbols", "X,Z*", "--start", "1700000006", "--end", "2023-11-14T22:13:41Z"]
    sources = [str(tmp_path / "a?.csv"), str(tmp_path / "b")]
    done = ran(sources[0], f"kafka://{broker.bootstrap}/{name}", sources[1], *flags)
    assert done.returncode == 0, done.stderr
    found, names = asyncio.run(ticks_of(f"kafka://{broker.bootstrap}/{name}?start=earliest", 15))
    assert names == ["X"]
    assert (found.ts_recv // 1_000_000 - 1_700_000_000).tolist() == list(range(6, 21))
    assert (found.ts_event == NO_TIME).all()
    assert f"produced 15 ticks of 1 symbols to {name} (1 partition)" in done.stdout


def test_it_signs_in_and_encrypts_as_told(apache: Apache, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    flags = ["--kafka-security-protocol", "SASL_SSL", "--kafka-ca-file", str(apache.certificates.ca)]
    flags += ["--kafka-username", USER, "--kafka-password-file", str(tmp_path / "password")]
    name = new_topic()
    done = ran(f"{SIM}&speed=max", f"kafka://{apache.sasl_ssl}/{name}", "--create", "--count", "2000", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the broker has 2000 new records\n")
    assert sum(apache.end_offsets(name)) == 2000
    apache.delete(name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sim:"], "Missing option '--to'"),
        (["sim:", "--to", "ticks"], "expected SCHEME:"),
        (["sim:", "--to", "replay:day.csv"], "expected a topic to write to"),
        (["sim:", "--to", "kafka://h/a,b"], "expected one topic to write to"),
        (["sim:", "--to", "kafka://h/t?start=earliest"], "unknown option 'start'"),
        (["sim:", "--to", "kafka://h/t?format=csv"], "expected one of json, msgpack to write"),
        (["sim:", "--to", "kafka://me:secret@h/t"], "never stand in a spec"),
        (["sim:", "day.csv", "--to", "kafka://h/t"], "expected files, or one feed alone"),
        (["sim:", "--speed", "2", "--to", "kafka://h/t"], "one feed alone, whose options are in it"),
        (["sim:?rate=fast", "--to", "kafka://h/t"], "rate: expected"),
        (["no/such.csv", "--to", "kafka://h/t"], "no/such.csv: No such file or directory"),
        (["no/*.csv", "--to", "kafka://h/t"], "expected a glob that matches files"),
        (["x.csv", "--speed", "0", "--to", "kafka://h/t"], "expected a number above 0, or max, was '0'"),
        (["x.csv", "--start", "noon", "--to", "kafka://h/t"], "expected a time in ISO 8601 or since 1970, was 'noon'"),
        (["x.csv", "--start", "2", "--end", "1", "--to", "kafka://h/t"], "end: expected a time later than start"),
        (["x.csv", "--map", "px", "--to", "kafka://h/t"], "expected field:name pairs"),
        (["x.csv", "--count", "0", "--to", "kafka://h/t"], "'--count'"),
        (["sim:", "--to", "kafka://h/t", "--kafka-security-protocol", "TLS"], "kafka_security_protocol: expected one"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "ticker", "produce", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S_MAX, env=environment(), check=False)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "secret" not in done.stderr


def test_a_terminal_shows_how_far_it_is(broker: Broker, topic: MakeTopic) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def look() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 4096))
            except OSError:  # the other end has closed
                return

    name = topic(1)
    with subprocess.Popen(
        command(SIM, f"kafka://{broker.bootstrap}/{name}"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="100"),
    ) as process:
        os.close(theirs)
        looking = threading.Thread(target=look)
        looking.start()
        try:
            until(lambda: re.search(rb"[1-9][0-9,]* ticks   [0-9,]+/s   at 2024-08-08 12:00:0", shown))
            process.terminate()
            assert SUMMARY.fullmatch(process.communicate(timeout=STOP_S_MAX)[0].decode())
        finally:
            process.kill()
            looking.join()
            os.close(ours)


def test_what_is_said() -> None:
    tally = Tally(ticks=1500, acknowledged=1234, symbols={1, 2}, at=1_723_118_400_000_000, began=10.0, ended=10.5)
    assert progress(tally) == "1,234 ticks   2,468/s   at 2024-08-08 12:00:00"
    assert summary(tally, "ticks (3 partitions)", None) == (
        "produced 1234 ticks of 2 symbols to ticks (3 partitions) in 0.5 s, 2,468/s; "
        "266 more were not acknowledged, and may be there or not"
    )
