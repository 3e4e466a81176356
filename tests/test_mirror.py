"""A client's copy of the server's state, and the updates that it is told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker.mirror import AS_OF, Mirror, Quote, Quotes, Update, conflate, update_of
from ticker.quotes import FIELDS


def whole(symbol: str, seq: int, n: int, **fields: Any) -> dict[str, Any]:
    return {"symbol": symbol, "seq": seq, "n": n, "ts": seq * 1000, **fields}


def delta(symbol: str, prev: int, seq: int, n: int, **fields: Any) -> dict[str, Any]:
    return {"symbol": symbol, "prev": prev, "seq": seq, "n": n, "ts": seq * 1000, **fields}


def snapshot(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "snapshot", "channel": "ticker", "ts": 1, "items": list(items)}


def update(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "update", "channel": "ticker", "ts": 2, "items": list(items)}


def mirror_of(*messages: dict[str, Any]) -> Mirror:
    mirror = Mirror()
    for message in messages:
        mirror.apply(message)
    return mirror


# -- keeping items -------------------------------------------------------------------------------------------------


def test_a_snapshot_item_replaces_what_was_held() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5, bid=1.0, ask=2.0)), snapshot(whole("A", 9, 7, bid=3.0)))
    assert mirror.items == {"A": whole("A", 9, 7, bid=3.0)}


def test_an_update_item_changes_the_fields_that_it_names_and_adds_its_n() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5, bid=1.0, ask=2.0)), update(delta("A", 5, 8, 3, bid=None)))
    assert mirror.items == {"A": whole("A", 8, 8, bid=None, ask=2.0)}


def test_what_happened_among_the_ticks_of_an_update_is_not_kept_as_state() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5)), update(delta("A", 5, 8, 3, hi=2.0, lo=1.0, vol=4.0)))
    assert mirror.items == {"A": whole("A", 8, 8)}


def test_an_item_that_was_read_does_not_change_under_its_reader() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5, bid=1.0)))
    held = mirror.items["A"]
    mirror.apply(update(delta("A", 5, 8, 3, bid=2.0)))
    mirror.apply({"type": "subscribed", "resumed": {"A": 99}})
    assert held == whole("A", 5, 5, bid=1.0)
    assert mirror.items["A"] == whole("A", 8, 99, bid=2.0)


def test_a_resumed_symbol_takes_the_count_of_the_server_that_resumes_it() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5)), {"type": "subscribed", "resumed": {"A": 2}})
    assert mirror.items["A"]["n"] == 2


@pytest.mark.parametrize("type", ["heartbeat", "status", "slow", "pong", "bars", "something new"])
def test_messages_without_state_are_ignored(type: str) -> None:
    assert not mirror_of({"type": type}).items


# -- chains --------------------------------------------------------------------------------------------------------


def test_a_broken_chain_is_told_once_and_its_last_good_item_is_kept() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5, bid=1.0)))
    assert mirror.apply(update(delta("A", 7, 8, 1, bid=2.0))) == ["A"]
    assert mirror.apply(update(delta("A", 8, 9, 1, bid=3.0))) == []
    assert mirror.items == {"A": whole("A", 5, 5, bid=1.0)}


def test_an_update_of_a_symbol_that_is_not_held_is_a_broken_chain() -> None:
    assert Mirror().apply(update(delta("A", 0, 8, 1))) == ["A"]


def test_one_broken_chain_leaves_the_others_of_the_round_whole() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5), whole("B", 6, 6)))
    assert mirror.apply(update(delta("A", 4, 8, 1), delta("B", 6, 9, 1))) == ["A"]
    assert mirror.items["B"]["seq"] == 9


def test_a_snapshot_mends_a_broken_chain() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5)), update(delta("A", 7, 8, 1)), snapshot(whole("A", 8, 8)))
    assert mirror.apply(update(delta("A", 8, 9, 1))) == []
    assert mirror.items["A"]["seq"] == 9


def test_since_names_only_what_is_whole() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5), whole("B", 6, 6)), update(delta("A", 7, 8, 1)))
    assert mirror.since() == {"B": 6}
    assert mirror.since(["A", "B", "C"]) == {"B": 6}


def test_nothing_is_resumed_across_a_new_epoch() -> None:
    mirror = mirror_of({"type": "welcome", "epoch": "k-1"}, snapshot(whole("A", 5, 5)))
    mirror.apply({"type": "epoch", "epoch": "k-2"})
    assert mirror.since() == {}
    assert mirror.apply(update(delta("A", 5, 6, 1))) == []  # its snapshot comes unasked
    mirror.apply(snapshot(whole("A", 2, 2)))
    assert (mirror.epoch, mirror.since()) == ("k-2", {"A": 2})


def test_what_is_dropped_is_forgotten() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5)), update(delta("A", 7, 8, 1)))
    mirror.drop(["A", "B"])
    assert not mirror.items
    assert not mirror.broken


# -- how a program sees it -----------------------------------------------------------------------------------------


def test_a_quote_has_every_field_of_the_wire() -> None:
    assert set(Quote.__struct_fields__) - AS_OF == set(FIELDS)


def test_quotes_are_always_the_newest_and_typed() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5, bid=1, trades=3, new_field="?")))
    quotes = Quotes(mirror)
    assert quotes["A"] == Quote(symbol="A", seq=5, n=5, ts=5000, bid=1.0, trades=3)
    mirror.apply(update(delta("A", 5, 6, 1, bid=2.0)))
    assert quotes["A"].bid == 2.0
    assert list(quotes) == ["A"]
    assert "B" not in quotes


def test_a_quote_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Quote(symbol="A", seq=1, n=1, ts=1).bid = 2.0  # type: ignore[misc]


def test_the_change_of_a_snapshot_is_what_differs_from_the_item_before_it() -> None:
    before, after = whole("A", 5, 5, bid=1.0, ask=2.0), whole("A", 9, 9, bid=1.5, ask=2.0)
    told = update_of(after, before, after, 4, 1, whole=True)
    assert (told.change, told.whole, told.n) == ({"bid": 1.5}, True, 4)
    assert update_of(after, None, after, None, 1, whole=True).change == {"bid": 1.5, "ask": 2.0}


# -- conflation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    bid: int
    price: int | None
    size: int


TICKS = st.lists(
    st.builds(Tick, st.integers(1, 9), st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 9)),
    min_size=1,
    max_size=12,
)


def told_by(ticks: list[Tick], seq: int, held: dict[str, Any]) -> dict[str, Any]:
    """The update item that a server sends for `ticks`, the last of which has position `seq`. Sizes are tenths."""
    item = delta("A", held["seq"], seq, len(ticks))
    if ticks[-1].bid / 4 != held["bid"]:
        item["bid"] = ticks[-1].bid / 4
    trades = [tick for tick in ticks if tick.price is not None]
    if trades:
        prices = [tick.price for tick in trades if tick.price is not None]
        item |= {"hi": max(prices), "lo": min(prices), "vol": sum(tick.size for tick in trades) / 10}
    return item


@given(ticks=TICKS, data=st.data())
def test_conflated_updates_are_the_update_of_one_longer_round(ticks: list[Tick], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ticks)))) | {len(ticks)})
    start = whole("A", 100, 7, bid=0.0)
    expected = Mirror()
    expected.apply(snapshot(start))
    item = told_by(ticks, 100 + len(ticks), start)
    expected.apply(update(item))

    mirror = Mirror()
    mirror.apply(snapshot(start))
    conflated: Update | None = None
    begin = 0
    for cut in cuts:
        held = mirror.items["A"]
        step = told_by(ticks[begin:cut], 100 + cut, held)
        assert mirror.apply(update(step)) == []
        one = update_of(step, held, mirror.items["A"], step["n"], 2, whole=False)
        conflated = one if conflated is None else conflate(conflated, one)
        begin = cut

    assert conflated is not None
    assert mirror.items == expected.items
    assert conflated.quote == msgspec.convert(expected.items["A"], Quote)
    assert conflated.n == len(ticks)
    assert (conflated.hi, conflated.lo, conflated.vol) == (item.get("hi"), item.get("lo"), item.get("vol"))
    assert conflated.change.get("bid", 0.0) == item["bid"]


def test_an_update_conflated_with_a_snapshot_is_whole_and_knows_its_n_only_where_both_are_known() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5, bid=1.0)))
    first = update_of(whole("A", 5, 5, bid=1.0), None, mirror.items["A"], None, 1, whole=True)
    item = delta("A", 5, 6, 1, bid=2.0)
    mirror.apply(update(item))
    second = update_of(item, None, mirror.items["A"], 1, 2, whole=False)
    both = conflate(first, second)
    assert (both.whole, both.n, both.change, both.ts) == (True, None, {"bid": 2.0}, 2)


def test_the_count_of_a_quote_grows_by_each_update_and_begins_anew_where_another_server_resumes() -> None:
    mirror = mirror_of(snapshot(whole("A", 5, 5)))
    quotes = Quotes(mirror)
    mirror.apply(update(delta("A", 5, 9, 3)))
    assert quotes["A"].n == 8
    mirror.apply({"type": "subscribed", "resumed": {"A": 2}})
    mirror.apply(update(delta("A", 9, 10, 1)))
    assert quotes["A"].n == 3
