"""The ticks of a file as plain rows, for tests of what formats mean."""

from __future__ import annotations

from pathlib import Path

from feeds.log import Log
from feeds.ticks import NO_TIME, QUOTE

#: (key, kind, ts_event, ts_recv, the values of its kind) of a tick.
Row = tuple[str, int, int | None, int | None, tuple[float | None, ...]]


def rows_of(path: Path) -> list[Row]:
    """Each tick of a file, None where a field has no value."""
    log = Log([path])
    rows: list[Row] = []
    for block in log.blocks():
        ticks = block.ticks
        for i in range(len(ticks)):
            kind = int(ticks.kind[i])
            names = ("bid", "bid_size", "ask", "ask_size") if kind == QUOTE else ("price", "size")
            values = tuple(None if (v := float(getattr(ticks, name)[i])) != v else v for name in names)
            times = [None if t == NO_TIME else int(t) for t in (ticks.ts_event[i], ticks.ts_recv[i])]
            rows.append((log.symbols.names[ticks.row[i]], kind, times[0], times[1], values))
    return rows
