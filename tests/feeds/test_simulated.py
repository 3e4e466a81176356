from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from feeds.pacing import GRAIN_US
from feeds.spec import open_feed
from feeds.ticks import COLUMNS, QUOTE, TRADE, Symbols, Ticks
from tests.feeds.conftest import T0, HandClock, batches_of, collect


async def simulated(options: str, most: int = 20_000, symbols: Symbols | None = None) -> Ticks:
    feed = open_feed(f"sim:?{options}", Symbols() if symbols is None else symbols, clock=HandClock())
    return Ticks.concat(await collect(feed, most))[:most]


async def test_the_same_seed_gives_the_same_ticks() -> None:
    one, two = await simulated("seed=7&start=0"), await simulated("seed=7&start=0")
    later, other = await simulated(f"seed=7&start={T0}"), await simulated("seed=8&start=0")
    for name in COLUMNS:
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        if not name.startswith("ts_"):
            assert getattr(one, name).tobytes() == getattr(later, name).tobytes()
    assert (later.ts_event - T0 == one.ts_event).all()
    assert not np.array_equal(one.row, other.row)


async def test_ticks_are_numbered_and_evenly_spaced_at_the_rate() -> None:
    ticks = await simulated("rate=3000&symbols=10", 5000)
    assert ticks.seq.tolist() == list(range(1, 5001))
    assert ticks.since == T0
    assert ticks.ts_event.tolist() == ticks.ts_recv.tolist()
    assert ticks.ts_event.tolist() == [T0 + int(k * 1e6 / 3000) for k in range(5000)]


async def test_ticks_leave_when_they_are_due_and_never_in_a_burst(clock: HandClock) -> None:
    feed = open_feed("sim:?rate=5000&symbols=20", Symbols(), clock=clock)
    sent = 0
    async for batch in batches_of(feed):
        assert (batch.ts_event <= clock.now()).all()
        assert (clock.now() - batch.ts_event <= GRAIN_US).all()
        assert len(batch) <= 6
        sent += len(batch)
        if sent > 5000:
            break
    assert clock.now() - T0 == pytest.approx(1e6, rel=0.01)
    assert feed.stats.ticks == sent


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_market_is_plausible(seed: int) -> None:
    symbols = Symbols()
    ticks = await simulated(f"symbols=50&seed={seed}&speed=max", 50_000, symbols)
    assert len(symbols) == 50
    assert set(ticks.row.tolist()) == set(range(50))
    quotes, trades = ticks[ticks.kind == QUOTE], ticks[ticks.kind == TRADE]
    assert 0.1 < len(trades) / len(ticks) < 0.3
    assert (quotes.bid > 0).all()
    assert (quotes.ask > quotes.bid).all()
    assert ((quotes.ask - quotes.bid) / quotes.ask < 0.02).all()
    for sizes in (quotes.bid_size, quotes.ask_size, trades.size):
        assert (sizes > 0).all()
    for empty in (quotes.price, quotes.size, trades.bid, trades.ask_size):
        assert np.isnan(empty).all()
    for row in range(50):
        middle = quotes.bid[quotes.row == row]
        assert np.abs(np.diff(np.log(middle))).max(initial=0) < 0.05


async def test_prices_are_decimals_with_few_digits() -> None:
    ticks = await simulated("symbols=200", 20_000)
    for values in (ticks.bid, ticks.ask, ticks.price, ticks.bid_size, ticks.size):
        for value in values[~np.isnan(values)][:3000].tolist():
            assert value == float(f"{value:.4f}")


async def test_trades_are_at_the_newest_quote() -> None:
    ticks = await simulated("symbols=30&rate=1000", 20_000)
    quotes: dict[int, tuple[float, float]] = {}
    for row, kind, bid, ask, price in zip(ticks.row, ticks.kind, ticks.bid, ticks.ask, ticks.price, strict=True):
        if kind == QUOTE:
            quotes[row] = (bid, ask)
        else:
            assert price in quotes[row]


async def test_symbols_move_together() -> None:
    ticks = await simulated("symbols=5&rate=1000&speed=max", 600_000)
    paths = []
    for row in range(5):
        own = ticks[(ticks.row == row) & (ticks.kind == QUOTE)]
        at = np.searchsorted(own.ts_event, T0 + np.arange(1, 590) * 10**6) - 1
        paths.append(np.diff(np.log(own.bid[at] + own.ask[at])))
    together = np.corrcoef(paths)[np.triu_indices(5, 1)]
    assert together.mean() > 0.1


async def test_all_symbols_are_known_from_the_start() -> None:
    symbols = Symbols()
    feed = open_feed("sim:?symbols=1200", symbols)
    assert feed.closed
    assert symbols.names[:2] == ["SIM0001", "SIM0002"]
    assert len(symbols) == 1200
    assert [name for name, after in pairwise(symbols.names) if name >= after] == []


async def test_symbols_of_another_feed_are_refused_and_counted() -> None:
    symbols = Symbols()
    symbols.claim("SIM001", symbols.part("other"))
    feed = open_feed("sim:?symbols=2&speed=max", symbols, clock=HandClock())
    ticks = Ticks.concat(await collect(feed, 500))
    assert set(ticks.row.tolist()) == {symbols.find("SIM002")}
    assert feed.stats.refused > 0
    assert feed.stats.ticks == len(ticks)


async def test_each_start_is_a_log_of_its_own() -> None:
    epochs = {open_feed("sim:", Symbols()).epoch for _ in range(5)}
    assert len(epochs) == 5
    assert all(epoch.startswith("sim-") for epoch in epochs)
