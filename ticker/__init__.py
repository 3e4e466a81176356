"""A live market-data ticker: takes price streams in, keeps every symbol's newest state, pushes what changed.

Data flows one way, and so do imports (upwards in this list, never down):

    cli         the only composition root: `ticker serve`, `tail`, `replay`, `index`, `record`, `produce`
    logs        one line an event, text or JSON
    tracing     spans of requests, for OpenTelemetry
    server      Starlette: the routes, health, endings
    streams     /v1/stream and /v1/replay, from the upgrade to the end
    page        the dashboard: its static files, under a strict policy
    replay_app  what /v1/replay is asked for, and /v1/sources
    http        /v1/snapshot, /v1/sse, /v1/symbols, /v1/trades, /v1/bars
    metrics     /metrics: what was counted, and how all is now
    entry       who comes in: the token, what it grants, and which service serves that
    credentials the key files, read anew when they change
    tiers       the live service, and one for each delay
    service     the clock: feeds into the table, rounds out of the hub
    replays     all replays, over the sources that there are
    recorded    one of recorded files: seek, step, checkpoints
    catchup     one of a live log from some time ago, until it is live
    replaying   what both are: a clock, a table and a hub of its own, and who shares them
    patient     the outlet of a client that the clock waits for
    index       the checkpoints of a recording in a file beside it
    transport   outlets: shared frames straight to the socket, or through plain ASGI
    heads       HTTP connections until their request is in
    draining    clients sent away one after another
    gate        who may connect at all
    presence    who is connected, and how many watch what
    hub         all clients: who joins, what is due, who is told what
    playback    a log played: its ticks and its rounds by a clock of its own
    checkpoints the whole state at some time, to play on from
    clients     a client: its session, and where it is served
    lanes       quotes: who is owed what of a round, and the shared bytes they are sent
    journals    trades and bars: the same, read from a version on
    audiences   who watches the same, and so shares a message
    paces       rounds: what changed since the last one
    session     one client: commands in, replies and a plan of what it watches out
    watchlist   its subscriptions to one channel
    tape        the last trades of each symbol
    bars        the last bars of each symbol
    journal     what both are: each row has a version to ask from
    access      a token in, what it grants out
    directory   the symbols there are, and which of them a pattern matches
    protocol    the wire: commands parsed, messages encoded
    quotes      the NumPy table: one row a symbol, `apply(ticks)`
    counts      what is counted as messages are sent
    columns     what is done to whole arrays
    health      how a running feed is
    settings    every limit, once
    errors      every error and close code, once

The other end of the wire:

    tail        prices in a terminal or a pipe
    client      the client: `ticker.connect`, of asyncio
    blocking    the same for code that is not async
    dialogue    what a client says and makes of what it hears
    reconnect   how a connection ends, and how long to wait before the next
    mirror      a copy of the server's state, kept by the protocol's rules

Commands of their own:

    record      a feed into Parquet files
    produce     a recording into a Kafka topic
    check       whether a server serves
    keys        the file of API keys
    play        a recording to a terminal, a pipe or a file: `ticker replay`
    run         the same in a program: `ticker.replay`

Beside it, `feeds` yields `Ticks`. Read quotes, session, hub, then the property test of conflation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ticker.client import connect
    from ticker.run import replay

__all__ = ["connect", "replay"]


def __getattr__(name: str) -> object:
    """`ticker.connect` and `ticker.replay`, loaded when asked for: a server has no use for the client's libraries."""
    if name == "connect":
        from ticker.client import connect  # noqa: PLC0415

        return connect
    if name == "replay":
        from ticker.run import replay  # noqa: PLC0415

        return replay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
