"""A live market-data ticker: takes price streams in, keeps every symbol's newest state, pushes what changed.

Data flows one way, and so do imports (upwards in this list, never down):

    cli         the only composition root: `ticker serve`, `ticker tail`
    server      Starlette: /v1/stream, /v1/snapshot, /v1/sse, /v1/symbols, health
    service     the clock: feeds into the table, rounds out of the hub
    transport   outlets: shared frames straight to the socket, or through plain ASGI
    client      asyncio client with resume; `mirror` is its pure copy of the server's state; `tail` prints it
    hub         lanes and rounds: who is owed what, and the shared bytes they are sent
    session     one client: commands in, replies and a plan of what it watches out
    quotes      the NumPy table: one row a symbol, `apply(ticks)`
    protocol    the wire: commands parsed, messages encoded
    settings    every limit, once
    errors      every error and close code, once

Beside it, `feeds` yields `Ticks`. Read quotes, session, hub, then the property test of conflation.
"""
