"""Recordings played in this process, without a server: the engine of `/v1/replay`, into columns.

    with ticker.replay("day.parquet", interval="1s") as run:
        table = run.to_arrow()  # one row for each symbol and round in which it changed

The rounds are those that a client of a replay would be sent at this interval: a round at a multiple T carries the ticks
before T, `n` counts those folded into a row since the symbol's row before, and `hi`, `lo` and `vol` cover the trades
among them. Nothing is left out: a slow loop only makes the run slow.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from math import isnan
from os import PathLike
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from feeds import options
from feeds.blocks import NEVER
from feeds.decode import any_key
from feeds.log import Log, Tally
from feeds.replay import find_files, matcher
from feeds.ticks import Ints, Symbols
from ticker.columns import Bools, Floats
from ticker.errors import RequestError
from ticker.mirror import Quote, Update
from ticker.paces import Pace, Round
from ticker.playback import Playback
from ticker.protocol import ALL_FIELDS, FieldSet, field_set
from ticker.quotes import FIELDS, WHOLE, Changes, QuoteTable
from ticker.settings import session_start_us

Path = str | PathLike[str]
When = int | str | datetime

#: Rows that are put together into one batch.
BATCH_ROWS: Final = 65_536
INTERVAL_S_MAX: Final = 60
_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000}
_TIMES: Final = frozenset(("last_ts", "session"))
TIME: Final = pa.timestamp("us", tz="UTC")


def replay(
    path: Path | Iterable[Path],
    *,
    speed: float | str = "max",
    interval: str | int = "1s",
    start: When | None = None,
    end: When | None = None,
    symbols: str | Iterable[str] | None = None,
    fields: Iterable[str] | None = None,
    session_start: str = "00:00",
) -> Run:
    """A run of recordings: files, globs or folders, merged by time, from `start` to before `end`.

    `speed` is a multiple of real time, or "max" for unpaced. `interval` is "250ms", "1s", "1m", or milliseconds; 0 gives a
    round for each distinct time. `start` and `end` are microseconds since 1970, ISO 8601 or datetimes with a zone.
    `symbols` are keys or shell patterns, `fields` those of the protocol, all where not given. Raises ValueError for an
    argument that makes no sense, FeedError (here and while running) for a file that cannot be read.
    """
    paths = [path] if isinstance(path, str | PathLike) else list(path)
    files = list(dict.fromkeys(file for each in paths for file in find_files(str(each))))
    named = ",".join([symbols] if isinstance(symbols, str) else symbols) if symbols is not None else None
    try:
        chosen = ALL_FIELDS if fields is None else field_set(fields)
    except RequestError as error:
        raise ValueError(error.message) from None
    return Run(
        Log(files, key=any_key if named is None else matcher(named)),
        speed=_speed(speed),
        interval_ms=_interval(interval),
        start=None if start is None else _time("start", start),
        end=None if end is None else _time("end", end),
        fields=chosen,
        session_start=session_start,
    )


def _speed(speed: float | str) -> float | None:
    if speed == "max":
        return None
    if isinstance(speed, str) or not 0 < speed < float("inf"):
        raise ValueError(f"speed: expected a number above 0, or 'max', was {speed!r}")
    return speed


def _interval(interval: str | int) -> int:
    found = re.fullmatch(r"(\d+)(ms|s|m)", interval) if isinstance(interval, str) else None
    ms = int(found[1]) * _UNITS_MS[found[2]] if found else interval
    if not isinstance(ms, int) or not 0 <= ms <= INTERVAL_S_MAX * 1000:
        raise ValueError(f"interval: expected '250ms', '1s', or 0 to {INTERVAL_S_MAX * 1000} ms, was {interval!r}")
    return ms


def _time(name: str, when: When) -> int:
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(f"{name}: expected a datetime with a zone, was {when!r}")
        return round(when.timestamp() * 1e6)
    try:
        return when if isinstance(when, int) else options.time(when)
    except ValueError:
        raise ValueError(f"{name}: expected microseconds or ISO 8601, was {when!r}") from None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of one round: `view` and `differs` are [fields, rows], `trades` [3, rows]."""

    ts: Ints
    rows: Ints
    seq: Ints
    n: Ints
    counts: Ints
    tick: Ints
    view: Floats
    differs: Bools
    trades: Floats


class _Collector:
    """Takes the rounds of one pace that watches every symbol; see `ticker.playback.Rounds`."""

    def __init__(self, table: QuoteTable, interval_ms: int, fields: FieldSet) -> None:
        self.intervals: Collection[int] = (interval_ms,)
        self._table = table
        self._fields = list(fields)
        self._pace: Pace[_Collector] = Pace(table, interval_ms, 0)
        self._pace.lanes[0] = self
        self.timers = (self._pace,)
        self._known = 0
        self.rounds: list[_Rows] = []
        self.rows = 0

    def fold(self, changes: Changes, ts: int | None = None) -> None:  # noqa: ARG002 - the round tells the time
        """Note what a batch changed; its first time is `ts`."""
        known = len(self._table.symbols)
        if known > self._known:
            self._pace.watch(np.arange(self._known, known), unseen=True)
            self._known = known
        self._pace.fold(changes)

    def flush(self, now: int) -> int | None:
        """Take the round at `now`."""
        self._pace.round(now)
        self._pace.schedule(now)
        return None

    def send(self, round: Round) -> None:
        """Keep a round."""
        rows, table = round.rows, self._table
        self.rounds.append(
            _Rows(
                np.full(len(rows), round.ts),
                rows,
                table.seq[rows],
                round.n,
                table.n[rows],
                table.ts[rows],
                round.view[self._fields],
                round.differs[self._fields],
                round.trades,
            )
        )
        self.rows += len(rows)

    def take(self) -> list[_Rows]:
        """The rounds since this was asked last."""
        rounds, self.rounds, self.rows = self.rounds, [], 0
        return rounds


class Run:
    """One run, to be entered with ``with``. It can be gone through once: by a loop, in batches, or into a table."""

    def __init__(
        self,
        source: Log,
        *,
        speed: float | None,
        interval_ms: int,
        start: int | None,
        end: int | None,
        fields: FieldSet,
        session_start: str,
    ) -> None:
        """As `replay`, with times in microseconds. Raises ValueError for times that are not in the recording."""
        self.fields = tuple(FIELDS[field] for field in fields)
        self.start = source.first if start is None else start
        if end is not None and end <= self.start:
            raise ValueError(f"end: expected a time later than start ({self.start}), was {end}")
        if source.last is not None and self.start > source.last:
            raise ValueError(f"start: expected a time up to the recording's last, {source.last}, was {self.start}")
        #: The last time that there is, where it is known without reading.
        self.end = source.last if end is None else end
        self._log = source
        self._speed = speed
        self._symbols = Symbols()
        table = QuoteTable(self._symbols, session_start_us=session_start_us(session_start))
        self._collector = _Collector(table, interval_ms, fields)
        self._playback = Playback(
            table,
            self._collector,
            part=self._symbols.part("replay"),
            start=self.start,
            end=NEVER if end is None else end,
            since=max(self.start, source.since),
        )
        #: Rows that could not be read, and that came too late to be put in their place.
        self.tally = Tally()
        self._chunks: Iterator[list[_Rows]] | None = None

    def __enter__(self) -> Self:
        self._chunks = self._played()
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks = None

    # -- going through it ----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Update]:
        """Each symbol's update of each round, in order."""
        return chain.from_iterable(self._updates(rows) for chunk in self._left() for rows in chunk)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in batches, for a run that is larger than memory."""
        return (self._batch(chunk) for chunk in self._left())

    def to_arrow(self) -> pa.Table:
        """All rows as a pyarrow.Table: `round` (its time), `symbol`, `seq`, `n`, `ts`, the fields, `hi`, `lo`, `vol`."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def to_pandas(self) -> Any:
        """All rows as a pandas.DataFrame. Raises ImportError where pandas is not installed."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """All rows as a polars.DataFrame. Raises ImportError where polars is not installed."""
        import polars  # noqa: PLC0415 - only who asks for it needs it

        return polars.from_arrow(self.to_arrow())

    @property
    def position(self) -> int:
        """Replay time: how far the run is, in microseconds."""
        return self._playback.position

    @property
    def ticks(self) -> int:
        """Ticks folded in so far."""
        return self._playback.ticks

    @property
    def schema(self) -> pa.Schema:
        """The columns of a batch."""
        return pa.schema(
            [
                *(("round", TIME), ("symbol", pa.dictionary(pa.int32(), pa.string()))),
                *(("seq", pa.int64()), ("n", pa.int64()), ("ts", TIME)),
                *((name, _type(name)) for name in self.fields),
                *((name, pa.float64()) for name in ("hi", "lo", "vol")),
            ]
        )

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _left(self) -> Iterator[list[_Rows]]:
        if self._chunks is None:
            raise RuntimeError("expected a run that was entered: with ticker.replay(...) as run")
        return self._chunks

    def _played(self) -> Iterator[list[_Rows]]:
        """Rounds, so many together as make a batch; each by itself where the run is paced."""
        playback, collector = self._playback, self._collector
        # Read here, not in a thread of its own: the two would take turns at the interpreter, and both be slower.
        blocks = self._log.blocks(self._log.start(self.start), self.tally, end=playback.end)
        playback.open(self._log.symbols.names)
        due = self._pacer()
        enough = BATCH_ROWS if self._speed is None else 1
        while not playback.completed:
            event = playback.next()
            if event is None:
                block = next(blocks, None)
                if block is None:
                    playback.finish()
                else:
                    playback.offer(block)
                continue
            due(event)
            playback.run()
            if collector.rows >= enough:
                yield collector.take()
        if collector.rows:
            yield collector.take()

    def _pacer(self) -> Callable[[int], None]:
        """Waits until a replay time is due; not at all where the run is unpaced."""
        speed, began = self._speed, time.monotonic()
        if speed is None:
            return lambda _: None
        return lambda ts: time.sleep(max(0.0, began + (ts - self.start) / 1e6 / speed - time.monotonic()))

    def _batch(self, chunk: list[_Rows]) -> pa.RecordBatch:
        def joined(name: str) -> Any:
            return np.concatenate([getattr(rows, name) for rows in chunk], axis=-1)

        view, trades = joined("view"), joined("trades")
        symbol = pa.DictionaryArray.from_arrays(joined("rows").astype(np.int32), pa.array(self._symbols.names))
        columns = [
            *(pa.array(joined("ts"), TIME), symbol, pa.array(joined("seq")), pa.array(joined("n"))),
            pa.array(joined("tick"), TIME),
            *(_column(name, values) for name, values in zip(self.fields, view, strict=True)),
            *(pa.array(values, from_pandas=True) for values in (trades[0], trades[1])),
            pa.array(np.where(np.isnan(trades[0]), np.nan, trades[2]), from_pandas=True),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _updates(self, rows: _Rows) -> Iterator[Update]:
        names, fields = self._symbols.names, self.fields
        for i, row in enumerate(rows.rows.tolist()):
            values = {name: _value(name, value) for name, value in zip(fields, rows.view[:, i].tolist(), strict=True)}
            moved = {name: values[name] for name, differs in zip(fields, rows.differs[:, i], strict=True) if differs}
            hi, lo, vol = rows.trades[:, i].tolist()
            traded = {"hi": hi, "lo": lo, "vol": vol} if not isnan(hi) else {}
            symbol, seq, counted = names[row], int(rows.seq[i]), int(rows.counts[i])
            quote = Quote(symbol=symbol, seq=seq, n=counted, ts=int(rows.tick[i]), **values)
            yield Update(symbol=symbol, quote=quote, change=moved, n=int(rows.n[i]), ts=int(rows.ts[i]), **traded)


def _type(name: str) -> pa.DataType:
    if name in _TIMES:
        return TIME
    return pa.int64() if name in WHOLE else pa.float64()


def _column(name: str, values: Floats) -> Any:
    if name not in WHOLE:
        return pa.array(values, from_pandas=True)
    none = np.isnan(values)
    whole = np.where(none, 0, values).astype(np.int64)
    return pa.array(whole, mask=none).cast(_type(name))


def _value(name: str, value: float) -> Any:
    if isnan(value):
        return None
    return int(value) if name in WHOLE else value
