"""The edge: a Starlette application over a `Service`. It reads requests and sends what the hub says."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from ticker import page
from ticker.access import Access
from ticker.counts import Histogram
from ticker.credentials import Credentials
from ticker.draining import drain
from ticker.entry import gate_of, grant_of, knock, service_of
from ticker.errors import Code, RequestError
from ticker.gate import Gate, RefusalError
from ticker.http import bars, events, json, number_of, query_of, refused, snapshot, symbols, trades
from ticker.hub import Hub
from ticker.metrics import Metrics
from ticker.presence import presence
from ticker.replay_app import sources
from ticker.replays import Replays
from ticker.service import Service
from ticker.settings import Settings
from ticker.streams import nowhere, replay, stream
from ticker.tiers import Tiers

log: Final = logging.getLogger(__name__)

#: What `/v1/stats` shows of each list where no limit is given.
STATS_SHOWN: Final = 100
#: How often to look by how much the loop is late.
LOOK_S: Final = 0.1


def create_app(
    serves: Service | Tiers, replays: Replays | None = None, credentials: Credentials | None = None
) -> Starlette:
    """The application that serves one service or several tiers, and `replays`, and keeps all running for as long as it is up.

    `credentials` say who may see what; everybody may see everything where they ask for no token.
    """
    tiers = serves if isinstance(serves, Tiers) else Tiers([serves])
    service = tiers.live
    credentials = credentials or Credentials(Settings())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(tiers.run(), name="service")
        running.add_done_callback(partial(_end_with, service))
        beating = asyncio.create_task(replays.run(), name="replays") if replays else None
        lagging = asyncio.create_task(_observe_lateness(service.hub.counts.lateness), name="lateness")
        watching = asyncio.create_task(credentials.watch(partial(_end_grants, app)), name="keys")
        yield
        watching.cancel()
        lagging.cancel()
        stop(app)
        running.cancel()
        if replays and beating:
            beating.cancel()
            await replays.stop()
        await asyncio.wait((running,), timeout=service.settings.shutdown_s_max)

    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", stream),
            WebSocketRoute("/v1/replay", replay),
            WebSocketRoute("/{path:path}", nowhere),
            Route("/v1/snapshot", snapshot),
            Route("/v1/sse", events),
            Route("/v1/symbols", symbols),
            Route("/v1/trades/{symbol:path}", trades),
            Route("/v1/bars/{symbol:path}", bars),
            Route("/v1/sources", sources),
            Route("/v1/stats", stats),
            Route("/livez", livez),
            Route("/readyz", readyz),
            *([] if service.settings.internal_port else [Route("/metrics", guarded_metrics)]),
            *page.routes(),
        ],
        exception_handlers={RequestError: refused, RefusalError: refused},
        lifespan=lifespan,
    )
    app.state.tiers = tiers
    app.state.replays = replays
    app.state.credentials = credentials
    app.state.gate = Gate(service.settings, service.clock.now())
    app.state.metrics = Metrics(tiers, replays, credentials, app.state.gate)
    return app


def create_internal_app(app: Starlette) -> Starlette:
    """What is for the operator alone, on a port apart: the metrics and the health of `app`, without any token."""
    internal = Starlette(
        routes=[Route("/metrics", metrics), Route("/livez", livez), Route("/readyz", readyz)],
    )
    internal.state = app.state
    return internal


async def _observe_lateness(lateness: Histogram) -> None:
    """See again and again by how much the loop is late, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK_S
        await asyncio.sleep(LOOK_S)
        lateness.observe(max(0.0, loop.time() - due))


def hubs_of(app: Starlette) -> list[tuple[str, Hub]]:
    """All hubs of an application, with the mode that each serves."""
    tiers, replays = app.state.tiers, app.state.replays
    served = [("delayed" if service.delay_ms else "live", service.hub) for service in tiers]
    return served + [("replay", replay.hub) for replay in (replays.replays.values() if replays else ())]


# -- endings -------------------------------------------------------------------------------------------------------


async def send_away(app: Starlette) -> None:
    """Let nobody in any more, and send all clients away, in the time that the settings give."""
    service: Service = app.state.tiers.live
    if not service.failed:
        settings = service.settings
        times = {"delay_s": settings.drain_delay_s, "spread_s": settings.drain_spread_s}
        await drain(app.state.gate, lambda: [hub for _, hub in hubs_of(app)], service.clock.now, **times)


def stop(app: Starlette) -> None:
    """Tell every client to come back elsewhere or later. Nothing is sent to any after that."""
    app.state.gate.draining = True
    app.state.tiers.stop()
    if app.state.replays:
        app.state.replays.dismiss()


def _end_with(service: Service, running: asyncio.Task[None]) -> None:
    """A service that failed takes the server down with it, loudly: a process without one serves nobody."""
    if not running.cancelled() and (failure := running.exception()):
        service.failed = True
        log.critical("the service failed", exc_info=failure)
        signal.raise_signal(signal.SIGTERM)


def _end_grants(app: Starlette, access: Access) -> None:
    """The keys have changed: whoever's is gone has to leave."""
    for _, hub in hubs_of(app):
        hub.end_grants(access.holds)


# -- health, presence and metrics ----------------------------------------------------------------------------------


async def stats(request: Request) -> Response:
    """`/v1/stats`: who is connected, and how many watch what, for those who may know."""
    knock(request)
    service, grant = service_of(request), grant_of(request)
    if not grant.rights.stats:
        raise RequestError(Code.NOT_ENTITLED, "expected a grant of stats, was one without")
    query = query_of(request, "limit")
    limit = int(number_of(query, "limit", STATS_SHOWN, 1, service.settings.page_symbols_max))
    return json({"ts": service.clock.now(), **presence(hubs_of(request.app), limit)})


async def guarded_metrics(request: Request) -> Response:
    """`/metrics` on the public port: for those who may see who else watches."""
    if not grant_of(request).rights.stats:
        raise RequestError(Code.NOT_ENTITLED, "expected a grant of stats, was one without")
    return await metrics(request)


async def metrics(request: Request) -> Response:
    """`/metrics`: for Prometheus."""
    held: Metrics = request.app.state.metrics
    body, content_type = held.render(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


async def livez(_: Request) -> Response:
    """`/livez`: the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """`/readyz`: whether traffic may come, and how each feed is."""
    tiers: Tiers = request.app.state.tiers
    ready = tiers.ready and not gate_of(request).draining
    return json({"ready": ready, "feeds": tiers.feeds_at()}, 200 if ready else 503)
