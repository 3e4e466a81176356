"""Presence: who is connected, and how many watch what. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ticker.columns import Ints
from ticker.hub import Hub
from ticker.protocol import BARS, TICKER, TRADES

CHANNELS = (TICKER, TRADES, BARS)


@dataclass(slots=True)
class _Watched:
    connections: int = 0
    symbols: Counter[str] = field(default_factory=Counter)


def presence(hubs: Iterable[tuple[str, Hub]], limit: int) -> dict[str, Any]:
    """The connections by mode, the subjects with the most of them, and the symbols that most watch, `limit` of each.

    `hubs` come with the mode that each serves. A client counts once for each channel of a symbol that it watches, and
    for each interval of bars.
    """
    modes: Counter[str] = Counter()
    subjects: dict[str, _Watched] = {}
    watchers: dict[str, Counter[str]] = {channel: Counter() for channel in CHANNELS}
    for mode, hub in hubs:
        modes[mode] += len(hub.clients)
        for client in hub.clients:
            held = subjects.setdefault(client.session.grant.subject, _Watched())
            held.connections += 1
            held.symbols[TICKER] += len(client.session.rows)
            for channel, watched in client.session.journals.items():
                held.symbols[channel] += len(watched.rows)
        for channel, counts in watched_of(hub).items():
            _add(watchers[channel], hub, counts)
    most = sorted(subjects.items(), key=lambda entry: (-entry[1].connections, entry[0]))
    total: Counter[str] = sum(watchers.values(), Counter())
    names = sorted(total, key=lambda name: (-total[name], name))
    return {
        "connections": dict(modes),
        "subjects": [
            {"subject": subject, "connections": held.connections, **_by_channel(held.symbols)}
            for subject, held in most[:limit]
        ],
        "symbols": [
            {"symbol": name, **{channel: watchers[channel][name] for channel in CHANNELS}} for name in names[:limit]
        ],
        "more": {"subjects": max(0, len(most) - limit), "symbols": max(0, len(names) - limit)},
    }


def watched_of(hub: Hub) -> Mapping[str, Ints]:
    """How many watch each row of a hub's table, by channel: int64[rows]."""
    counts = {channel: np.zeros(hub.table.capacity, np.int64) for channel in CHANNELS}
    for pace in hub.paces.values():
        rows, watchers = pace.watchers()
        counts[TICKER][rows] += watchers
    for key, journal in hub.journal_paces.items():
        rows, watchers = journal.watchers()
        counts[TRADES if key.journal == TRADES else BARS][rows] += watchers
    return counts


def _add(total: Counter[str], hub: Hub, counts: Ints) -> None:
    names = hub.table.symbols.names
    for row in counts.nonzero()[0].tolist():
        total[names[row]] += int(counts[row])


def _by_channel(symbols: Mapping[str, int]) -> dict[str, int]:
    return {channel: symbols.get(channel, 0) for channel in CHANNELS}
