from __future__ import annotations

from pathlib import Path

import pytest

from feeds.clock import WallClock
from feeds.feed import FeedError
from feeds.options import Spec, flag, time, whole
from feeds.spec import SCHEMES, open_feed
from feeds.ticks import Symbols
from tests.feeds.conftest import T0, quote, write_csv


def refused(spec: str) -> str:
    with pytest.raises(FeedError) as error:
        open_feed(spec, Symbols())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("", "feed '': expected SCHEME:..., such as sim: or replay:FILE"),
        ("sim", "feed 'sim': expected SCHEME:..., such as sim: or replay:FILE"),
        ("other:x", "feed 'other:x': expected one of sim:, replay:, kafka:"),
        ("sim:x", "feed 'sim:x': expected options alone, as in sim:?symbols=500, was 'x'"),
        ("sim:?symbols=0", "symbols: expected a whole number from 1 to 100000, was '0'"),
        ("sim:?symbols=x", "symbols: expected a whole number from 1 to 100000, was 'x'"),
        ("sim:?rate=nan", "rate: expected ticks a second, above 0 and up to 1000000, was 'nan'"),
        ("sim:?rate=1000001", "rate: expected ticks a second, above 0 and up to 1000000, was '1000001'"),
        ("sim:?seed=-1", "seed: expected a whole number of 0 or more, was '-1'"),
        ("sim:?start=soon", "start: expected a time in ISO 8601 or since 1970, was 'soon'"),
        ("sim:?symbol=1", "unknown option 'symbol': expected symbols, rate, seed, start, speed"),
        ("sim:?symbols", "expected options as name=value"),
        ("sim:?seed=1&seed=2", "seed: expected once, was given twice"),
        ("replay:", "replay: expected a file, a glob or a folder, was nothing"),
        ("replay:x.csv?speed=0", "speed: expected a number above 0, or max, was '0'"),
        ("replay:x.csv?speed=fast", "speed: expected a number above 0, or max, was 'fast'"),
        ("replay:x.csv?loop=yes", "loop: expected 0 or 1, was 'yes'"),
        ("replay:x.csv?from=noon", "from: expected a time in ISO 8601 or since 1970, was 'noon'"),
        ("replay:x.csv?from=2&to=1", "to: expected a time later than from"),
        ("replay:x.csv?symbols=", "symbols: expected keys or shell patterns, separated by commas, was ''"),
        ("replay:x.csv?map=cost:px", "map: expected field:name pairs, fields being symbol, venue, type,"),
        ("replay:x.csv?map=price", "map: expected field:name pairs"),
        ("replay:x.csv?pace=2", "unknown option 'pace': expected symbols, from, to, speed, loop, map"),
        ("replay:/no/such/x.csv", "/no/such/x.csv: No such file or directory"),
        ("replay:/no/such/*.csv", "/no/such/*.csv: expected a glob that matches files, found none"),
    ],
)
def test_a_bad_spec_is_one_clear_line(spec: str, cause: str) -> None:
    assert cause in refused(spec)


def test_feeds_are_named_by_their_scheme_or_as_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [quote(T0)])
    symbols = Symbols()
    assert open_feed("sim:?symbols=1", symbols).name == "sim"
    assert open_feed(f"replay:{path}", symbols).name == "replay"
    assert open_feed(f"replay:{path}", symbols, name="replay-2").name == "replay-2"
    assert [str(part) for part in symbols.parts] == ["sim", "replay", "replay-2"]
    assert set(SCHEMES) == {"sim", "replay", "kafka"}


def test_a_spec_taken_apart() -> None:
    spec = Spec("replay:/a b/[x]:%41&=#.csv?from=2024-08-08T23:56:00%2B02:00&to=2024-08-09T00:00:00+02:00&loop=1")
    assert (spec.scheme, spec.path) == ("replay", "/a b/[x]:%41&=#.csv")
    assert spec.option("from", None, time, "a time") == 1_723_154_160_000_000
    assert spec.option("to", None, time, "a time") == 1_723_154_400_000_000
    assert spec.option("loop", False, flag, "0 or 1") is True
    assert spec.option("absent", 7, whole(0, 9), "a number") == 7
    spec.done()


async def test_the_wall_clock_goes_on() -> None:
    clock = WallClock()
    before = clock.now()
    await clock.sleep_until(before + 2000)
    assert 1000 <= clock.now() - before < 10**7
    await clock.sleep_until(0)
