"""The page at `/`: the dashboard's static files, under a policy that lets nothing else run or load.

They are built from `ticker/web` by `make web`, and a wheel carries them. Where they are not there, the page says so: the
service does not need them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC: Final = Path(str(files("ticker"))) / "web" / "static"
#: Files whose names change with what is in them.
HASHED: Final = "/assets/"
POLICY: Final = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
UNBUILT: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ticker</title>
<h1>ticker</h1>
<p>This server runs. Its dashboard is not built: <code>make web</code> builds it, where Node.js 20 or newer is found.</p>
<p>What it serves can be read all the same: <a href="/v1/symbols">/v1/symbols</a>, <a href="/readyz">/readyz</a>.</p>
</html>
"""


def routes(static: Path = STATIC) -> list[BaseRoute]:
    """What serves the page; the last of an application's routes."""
    if not (static / "index.html").is_file():
        return [Route("/", _unbuilt)]
    return [Mount("/", _Guarded(StaticFiles(directory=static, html=True)))]


async def _unbuilt(_: Request) -> HTMLResponse:
    return HTMLResponse(UNBUILT, headers=HEADERS)


class _Guarded:
    """Static files with the headers that keep a page what it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                forever = HASHED in scope["path"] and message["status"] == 200
                headers["cache-control"] = "public, max-age=31536000, immutable" if forever else "no-cache"
            await send(message)

        await self._app(scope, receive, guarded)
