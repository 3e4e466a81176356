"""Traces by OpenTelemetry: a span for each request and each WebSocket, none for any message. Off unless asked for."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp

#: What the end of the process waits for the last spans to be taken.
FLUSH_S: Final = 1
#: What a span is not to hold, since a query is nobody else's business: its attributes that do.
QUERIES: Final = ("http.target", "http.url", "url.full", "url.query")


def traced(app: ASGIApp, endpoint: str) -> tuple[ASGIApp, Callable[[], None]]:
    """`app` with its requests traced to `endpoint`, by OTLP over HTTP, and what sends the last of them on.

    Raises ModuleNotFoundError where the libraries are not there.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    def without_query(span: Any, _: MutableMapping[str, Any]) -> None:
        held = span.attributes or {}
        for name in QUERIES:
            if name in held:
                span.set_attribute(name, "" if name == "url.query" else str(held[name]).partition("?")[0])

    provider = TracerProvider(resource=Resource.create({"service.name": "ticker"}), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=FLUSH_S))
    provider.add_span_processor(processor)
    wrapped: Any = OpenTelemetryMiddleware(
        app, server_request_hook=without_query, tracer_provider=provider, exclude_spans=["receive", "send"]
    )

    def flush() -> None:
        processor.force_flush(int(FLUSH_S * 1000))

    return wrapped, flush
