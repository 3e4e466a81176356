from __future__ import annotations

import string
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.ticks import COLUMNS, NO_TIME, QUOTE, REFUSED, TRADE, Symbols, Ticks, is_key
from tests.feeds.conftest import sides_and_ids


def ticks(n: int, **columns: object) -> Ticks:
    filled: dict[str, object] = {
        **dict.fromkeys(("row", "seq"), np.arange(n)),
        "kind": np.full(n, QUOTE, np.uint8),
        **dict.fromkeys(("ts_event", "ts_recv"), np.full(n, NO_TIME)),
        **dict.fromkeys(("bid", "bid_size", "ask", "ask_size", "price", "size"), np.full(n, np.nan)),
    }
    return Ticks(**{**filled, **columns})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["A", "binance-spot:BTCUSDT", "x" * 64, "BRK.B", "ES+F/1", "~!#$%&()*;<=>?@[]^_`{|}"])
def test_keys(key: str) -> None:
    assert is_key(key)


@pytest.mark.parametrize("key", ["", "x" * 65, "a b", "a,b", 'a"b', "a'b", "a\\b", "é", "a\n", "a\t", "\x7f"])
def test_no_keys(key: str) -> None:
    assert not is_key(key)


@given(st.text(max_size=70))
def test_a_key_is_printable_ascii_but_for_a_few_signs(text: str) -> None:
    allowed = set(string.printable) - set(string.whitespace) - set("\"',\\")
    assert is_key(text) == (1 <= len(text) <= 64 and set(text) <= allowed)


def test_rows_count_up_in_the_order_of_the_claims() -> None:
    symbols = Symbols()
    part = symbols.part("sim")
    assert symbols.claim_all(["B", "A", "B"], part).tolist() == [0, 1, 0]
    assert symbols.names == ["B", "A"]
    assert symbols.find("A") == 1
    assert symbols.find("C") is None
    assert "B" in symbols
    assert len(symbols) == 2


def test_a_symbol_belongs_to_the_part_that_brought_it_first() -> None:
    symbols = Symbols()
    first, second = symbols.part("kafka", "t/0"), symbols.part("kafka", "t/1")
    assert symbols.part("kafka", "t/0") == first
    assert symbols.claim("A", first) == 0
    assert symbols.claim("A", second) == REFUSED
    assert [str(part) for part in symbols.parts] == ["kafka/t/0", "kafka/t/1"]


def test_a_row_can_be_moved_or_released_to_whoever_claims_it_next() -> None:
    symbols = Symbols()
    first, second, third = (symbols.part("k", label) for label in "012")
    rows = symbols.claim_all(["A", "B"], first)
    symbols.move(0, second)
    assert (symbols.claim("A", first), symbols.claim("A", second)) == (REFUSED, 0)
    assert (symbols.owned_by([first]).tolist(), symbols.owned_by([first, second]).tolist()) == ([1], [0, 1])
    symbols.release(rows)
    assert (symbols.claim("A", third), symbols.claim("A", second)) == (0, REFUSED)
    assert symbols.owner == [third, first]
    assert symbols.moves == 3


def test_a_bad_key_is_an_error_that_shows_it() -> None:
    symbols = Symbols()
    with pytest.raises(ValueError, match="was 'no good'"):
        symbols.claim("no good", symbols.part("sim"))
    assert len(symbols) == 0


def test_threads_never_share_a_row() -> None:
    symbols = Symbols()
    part = symbols.part("sim")
    keys = [f"S{number}" for number in range(2000)]
    threads = [Thread(target=symbols.claim_all, args=(keys[start:] + keys[:start], part)) for start in (0, 500, 1500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(symbols.names) == sorted(keys)
    assert symbols.claim_all(symbols.names, part).tolist() == list(range(2000))


def test_times_are_the_venues_else_the_receivers() -> None:
    some = ticks(3, ts_event=np.array([5, NO_TIME, 7]), ts_recv=np.array([NO_TIME, 6, 9]))
    assert some.ts.tolist() == [5, 6, 7]
    assert some.ts_log.tolist() == [5, 6, 9]


def test_slices_and_concat_keep_all_columns() -> None:
    side, ids = np.array([0, 1, 0, 2, 0], np.uint8), pa.array([None, "x", None, "7", None])
    some = ticks(5, kind=np.array([QUOTE, TRADE] * 2 + [QUOTE], np.uint8), side=side, trade_id=ids, since=3)
    whole = Ticks.concat([some[:2], some[np.array([2, 3])], some[np.array([False] * 4 + [True])]])
    assert sides_and_ids(whole) == [(0, None), (1, "x"), (0, None), (2, "7"), (0, None)]
    bare = ticks(2)
    assert sides_and_ids(Ticks.concat([bare, some[1:2]])) == [(0, None), (0, None), (1, "x")]
    assert (Ticks.concat([bare, bare]).side, bare[:1].trade_id) == (None, None)
    assert whole.since == 3
    assert len(whole) == 5
    for name in COLUMNS:
        assert getattr(whole, name).tobytes() == getattr(some, name).tobytes()
        assert getattr(whole, name).dtype == getattr(some, name).dtype
    with pytest.raises(ValueError, match="at least one batch"):
        Ticks.concat([])
