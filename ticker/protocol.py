"""The wire: a client's message parsed into a command, and the server's messages encoded. Bytes in, bytes out. Pure.

An item is encoded once, with a comma behind it, and joined into as many messages as need it: `Encoding.join` turns the
last comma into the closing bracket in place, so that a message costs one copy of its items and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from ticker.errors import Code, RequestError
from ticker.quotes import FIELDS, WHOLE

PROTOCOL: Final = "ticker.v1"
TICKER: Final = "ticker"
TRADES: Final = "trades"
BARS: Final = "bars"
CHANNELS: Final = (TICKER, TRADES, BARS)
#: The intervals of bars by name, in microseconds: each divides the next.
BAR_INTERVALS: Final = {"1s": 1_000_000, "1m": 60_000_000, "5m": 300_000_000, "1h": 3_600_000_000, "1d": 86_400_000_000}
INTERVAL_MS_MAX: Final = 60_000
INTEGER_MAX: Final = 2**53 - 1
#: The fastest that a clock is paced; beyond, it is not.
SPEED_MAX: Final = 1_000_000
STEP_ROUNDS_MAX: Final = 100_000
ID_CHARS_MAX: Final = 128  # it is echoed, also to a client that does not read

Id = int | str | None
#: Fields as their places in FIELDS, ascending.
FieldSet = tuple[int, ...]
ALL_FIELDS: Final[FieldSet] = tuple(range(len(FIELDS)))
LAST_FIELD: Final = FIELDS.index("last")


# -- commands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    id: Id
    symbols: tuple[str, ...]
    channel: str = TICKER
    interval_ms: int | None = None
    fields: FieldSet = ALL_FIELDS
    since: Mapping[str, int] | None = None
    epoch: str | None = None
    #: In place of `since`: up to where the client has had all of each part of each log.
    positions: Mapping[str, int] | None = None
    #: Of bars alone, and there always.
    interval: str | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    id: Id
    symbols: tuple[str, ...]
    channel: str = TICKER


@dataclass(frozen=True, slots=True)
class Resync:
    id: Id
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    id: Id


@dataclass(frozen=True, slots=True)
class Auth:
    id: Id
    token: str


@dataclass(frozen=True, slots=True)
class Play:
    id: Id


@dataclass(frozen=True, slots=True)
class Pause:
    id: Id


@dataclass(frozen=True, slots=True)
class Speed:
    id: Id
    #: A multiple of real time; None for unpaced.
    value: float | None


@dataclass(frozen=True, slots=True)
class Seek:
    id: Id
    ts: int


@dataclass(frozen=True, slots=True)
class Step:
    id: Id
    rounds: int = 1


#: What moves the clock of a replay.
Clocking = Play | Pause | Speed | Seek | Step
Command = Subscribe | Unsubscribe | Resync | Ping | Auth | Clocking


def parse(message: str | bytes) -> Command:
    """The command in one message of a client.

    Raises RequestError, with the command's id where one could be read, that says what was expected and what came.
    """
    try:
        body = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise RequestError(Code.INVALID_REQUEST, f"expected one JSON object, was not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestError(Code.INVALID_REQUEST, f"expected one JSON object, was {_named(body)}")
    id = _id(body.pop("id", None))  # noqa: A001 - the wire's name
    try:
        return _command(body)(id)
    except RequestError as error:
        error.id = id
        raise


def _id(value: object) -> Id:
    if value is None:
        return None
    if isinstance(value, str):
        if len(value) > ID_CHARS_MAX:
            raise RequestError(
                Code.INVALID_REQUEST, f"id: expected at most {ID_CHARS_MAX} characters, was {len(value)}"
            )
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(Code.INVALID_REQUEST, f"id: expected a string or an integer, was {_named(value)}")
    if abs(value) > INTEGER_MAX:
        raise RequestError(Code.INVALID_REQUEST, f"id: expected an integer below 2**53, was {value}")
    return value


def _command(body: dict[str, Any]) -> Callable[[Id], Command]:
    """What makes the command of a message, but for its id."""
    if "op" not in body:
        raise RequestError(Code.INVALID_REQUEST, f"op: expected {_listed(COMMANDS)}, which is missing")
    op = body.pop("op")
    if not isinstance(op, str):
        raise RequestError(Code.INVALID_REQUEST, f"op: expected a string, was {_named(op)}")
    if op not in COMMANDS:
        raise RequestError(Code.UNKNOWN_OP, f"op: expected {_listed(COMMANDS)}, was {_shown(op)}")
    command, required, readers = COMMANDS[op]
    channel = TICKER
    if "channel" in body and "channel" in readers:  # first: another channel has other members
        channel = _channel("channel", body["channel"])
    readers = {name: reader for name, reader in readers.items() if ONLY_OF.get(name, channel) == channel}
    for name in body:
        if name not in readers:
            of = f" of {channel}" if name in ONLY_OF else ""
            raise RequestError(Code.UNKNOWN_FIELD, f"{op}{of}: expected {_listed(readers)}, was {_shown(name)}")
    for name in (*required, *(("interval",) if "interval" in readers else ())):
        if name not in body:
            raise RequestError(Code.INVALID_REQUEST, f"{op}: expected {name}, which is missing")
    return partial(command, **{name: readers[name](name, value) for name, value in body.items()})


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected a string, was {_named(value)}")
    return value


def _channel(name: str, value: object) -> str:
    channel = _text(name, value)
    if channel not in CHANNELS:
        raise RequestError(Code.UNKNOWN_CHANNEL, f"{name}: expected {_listed(CHANNELS)}, was {_shown(channel)}")
    return channel


def bar_interval(name: str, value: object) -> str:
    """The interval of bars that `value`, given as `name`, is. Raises RequestError."""
    interval = _text(name, value)
    if interval not in BAR_INTERVALS:
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected {_listed(BAR_INTERVALS)}, was {_shown(interval)}")
    return interval


def _symbols(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        was = "none" if value == [] else _named(value)
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected a list of strings, at least one, was {was}")
    for entry in value:
        if not isinstance(entry, str):
            raise RequestError(Code.INVALID_REQUEST, f"{name}: expected strings, was {_named(entry)}")
    return tuple(dict.fromkeys(value))


def _interval(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INTERVAL_MS_MAX:
        whole = "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number from "
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected {whole}0 to {INTERVAL_MS_MAX}, was {_named(value)}")
    return value


def _fields(name: str, value: object) -> FieldSet:
    if not isinstance(value, list) or not value:
        was = "none" if value == [] else _named(value)
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected a list of field names, at least one, was {was}")
    return field_set(value)


def field_set(names: Iterable[object]) -> FieldSet:
    """Names of fields as a field set; RequestError for a name that is none."""
    places = set()
    for name in names:
        if name not in FIELDS:
            raise RequestError(Code.UNKNOWN_FIELD, f"fields: expected {_listed(FIELDS)}, was {_shown(name)}")
        places.add(FIELDS.index(name))
    return tuple(sorted(places))


def _since(name: str, value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected an object of symbol to seq, was {_named(value)}")
    for symbol, seq in value.items():
        if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= INTEGER_MAX:
            raise RequestError(Code.INVALID_REQUEST, f"{name}: {_shown(symbol)}: expected a seq, was {_named(seq)}")
    return value


def _speed(name: str, value: object) -> float | None:
    if value == "max":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= SPEED_MAX:
        raise RequestError(
            Code.INVALID_REQUEST, f"{name}: expected max or a number above 0, up to {SPEED_MAX}, was {_named(value)}"
        )
    return float(value)


def _ts(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > INTEGER_MAX:
        raise RequestError(Code.INVALID_REQUEST, f"{name}: expected microseconds since 1970, was {_named(value)}")
    return value


def _rounds(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= STEP_ROUNDS_MAX:
        raise RequestError(
            Code.INVALID_REQUEST, f"{name}: expected a whole number from 1 to {STEP_ROUNDS_MAX}, was {_named(value)}"
        )
    return value


def _named(value: object) -> str:
    """What a value of JSON is, for an error: short, whatever the client sent."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return _shown(value)
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:76] + "...'"


def _listed(names: Collection[str]) -> str:
    return "one of " + ", ".join(names) if names else "no other member"


Reader = Callable[[str, object], Any]
_NAMES: Final[dict[str, Reader]] = {"channel": _channel, "symbols": _symbols}

#: Each op: its command, the members it must have, and how each of its members is read.
COMMANDS: Final[dict[str, tuple[type, tuple[str, ...], dict[str, Reader]]]] = {
    "auth": (Auth, ("token",), {"token": _text}),
    "subscribe": (
        Subscribe,
        ("symbols",),
        {
            **_NAMES,
            "interval": bar_interval,
            "interval_ms": _interval,
            "fields": _fields,
            "since": _since,
            "epoch": _text,
        },
    ),
    "unsubscribe": (Unsubscribe, ("symbols",), _NAMES),
    "resync": (Resync, ("symbols",), {"symbols": _symbols}),
    "ping": (Ping, (), {}),
    "play": (Play, (), {}),
    "pause": (Pause, (), {}),
    "speed": (Speed, ("value",), {"value": _speed}),
    "seek": (Seek, ("ts",), {"ts": _ts}),
    "step": (Step, (), {"rounds": _rounds}),
}

#: Members that a command on one channel has and on another has not.
ONLY_OF: Final = {"fields": TICKER, "interval": BARS}


# -- messages ------------------------------------------------------------------------------------------------------

encode: Final = orjson.dumps


def error(failure: RequestError, *, fatal: bool = False) -> dict[str, Any]:
    """The `error` message that answers a refused command."""
    message: dict[str, Any] = {"type": "error"}
    if failure.id is not None:
        message["id"] = failure.id
    return {**message, "code": failure.code, "message": failure.message, "fatal": fatal}


def journal_head(channel: str, interval: str, ts: int) -> bytes:
    """The bytes of a message of trades or bars up to its first item."""
    if channel == BARS:
        return b'{"type":"bars","interval":"%b","ts":%d,"items":[' % (interval.encode(), ts)
    return b'{"type":"trades","ts":%d,"items":[' % ts


def items_head(type: str, ts: int, id: Id = None) -> bytes:
    """The bytes of a message of items up to its first item."""
    tag = b"" if id is None else b'"id":%b,' % encode(id)
    return b'{"type":"%b",%b"channel":"ticker","ts":%d,"items":[' % (type.encode(), tag, ts)


def snapshot_items(
    names: Sequence[str],
    seq: NDArray[np.int64],
    n: NDArray[np.int64],
    ts: NDArray[np.int64],
    view: NDArray[np.float64],
    fields: FieldSet,
) -> list[bytes]:
    """Snapshot items, each with its comma. `view` is float64[len(FIELDS), len(names)]; a value that is none is null.

    A symbol with no value yet (`n` 0) has no time either.
    """
    items: list[dict[str, Any]] = [
        {"symbol": symbol, "seq": s, "n": count, "ts": t if count else None}
        for symbol, s, count, t in zip(names, seq.tolist(), n.tolist(), ts.tolist(), strict=True)
    ]
    for field in fields:
        name = FIELDS[field]
        for item, value in zip(items, _values(field, view[field]), strict=True):
            item[name] = value
    return [encode(item) + b"," for item in items]


def update_items(
    names: Sequence[str],
    prev: NDArray[np.int64],
    seq: NDArray[np.int64],
    n: NDArray[np.int64],
    ts: NDArray[np.int64],
    view: NDArray[np.float64],
    moved: NDArray[np.bool_],
    fields: FieldSet,
    trades: NDArray[np.float64],
) -> list[bytes]:
    """Update items, each with its comma: of `fields`, those that `moved`, bool[len(FIELDS), len(names)].

    `trades` is float64[3, len(names)]: the highest and lowest price and the volume of the trades since `prev`, NaN
    where there was none; they are told where `last` is among the fields.
    """
    items: list[dict[str, Any]] = [
        {"symbol": symbol, "prev": p, "seq": s, "n": count, "ts": t}
        for symbol, p, s, count, t in zip(names, prev.tolist(), seq.tolist(), n.tolist(), ts.tolist(), strict=True)
    ]
    for field in fields:
        at = moved[field].nonzero()[0]
        if len(at):
            name = FIELDS[field]
            for i, value in zip(at.tolist(), _values(field, view[field, at]), strict=True):
                items[i][name] = value
    if LAST_FIELD in fields:
        at = (trades[0] == trades[0]).nonzero()[0]
        for i, hi, lo, vol in zip(at.tolist(), *trades[:, at].tolist(), strict=True):
            item = items[i]
            item["hi"], item["lo"], item["vol"] = hi, lo, vol
    return [encode(item) + b"," for item in items]


def trade_items(
    symbol: str,
    seq: list[int],
    nth: list[int],
    ts: list[int],
    price: list[float],
    size: list[float],
    side: list[str | None],
    id: list[str | None],
) -> bytes:
    """The items of trades of one symbol, one after another, each with its comma; at least one."""
    items = [
        {"symbol": symbol, "seq": s, "i": i, "ts": t, "price": p, "size": q, "side": d, "id": name}
        for s, i, t, p, q, d, name in zip(seq, nth, ts, price, size, side, id, strict=True)
    ]
    return encode(items)[1:-1] + b","


def bar_items(
    symbol: str,
    whole: NDArray[np.int64],
    length: int,
    prices: NDArray[np.float64],
    volume: NDArray[np.float64],
    vwap: NDArray[np.float64],
    closed: NDArray[np.bool_],
) -> bytes:
    """The items of bars of one symbol, one after another, each with its comma; at least one.

    `whole` is int64[bars, 4]: seq, rev, start and the number of trades; `prices` float64[bars, 4]: open, high, low, close.
    """
    items = [
        {
            "symbol": symbol,
            "seq": seq,
            "rev": rev,
            "start": start,
            "end": start + length,
            "open": o,
            "high": h,
            "low": low,
            "close": c,
            "volume": v,
            "vwap": w,
            "trades": n,
            "closed": shut,
        }
        for (seq, rev, start, n), (o, h, low, c), v, w, shut in zip(
            whole.tolist(), prices.tolist(), volume.tolist(), vwap.tolist(), closed.tolist(), strict=True
        )
    ]
    return encode(items)[1:-1] + b","


def _values(field: int, column: NDArray[np.float64]) -> list[Any]:
    """The values of one field as they are encoded (orjson writes NaN as null)."""
    values: list[float] = column.tolist()
    if FIELDS[field] not in WHOLE:
        return values
    return [None if isnan(value) else int(value) for value in values]


# -- encodings -----------------------------------------------------------------------------------------------------

_TEXT: Final = 0x81  # a whole text message in one frame
_HEADER: Final = 4  # room for the header of a frame of 126 to 65,535 bytes, which nearly all are


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a message becomes the bytes that an outlet is handed. Two lanes of different encodings share no bytes."""

    name: str
    #: A whole message, given its JSON.
    whole: Callable[[bytes], bytes]
    #: A message of items, given its head and the items, each with its comma; at least one.
    join: Callable[[bytes, Iterable[bytes]], bytes | bytearray]


def _join_bare(head: bytes, items: Iterable[bytes]) -> bytearray:
    message = bytearray().join([head, *items, b"}"])
    message[-2] = 0x5D  # the last comma becomes the closing bracket
    return message


def _join_framed(head: bytes, items: Iterable[bytes]) -> bytes | bytearray:
    message = bytearray().join([b"\x81\x7e\x00\x00", head, *items, b"}"])
    message[-2] = 0x5D
    size = len(message) - _HEADER
    if 126 <= size < 65_536:
        message[2] = size >> 8
        message[3] = size & 0xFF
        return message
    return frame(message[_HEADER:])


def frame(payload: bytes | bytearray) -> bytes:
    """`payload` as one unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT, size)) + payload
    if size < 65_536:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + payload


#: JSON in WebSocket frames, ready for the socket.
FRAMED: Final = Encoding("framed", frame, _join_framed)
#: JSON alone, for whoever frames it: another ASGI server, Server-Sent Events.
BARE: Final = Encoding("bare", bytes, _join_bare)
