"""The service with clients of all kinds, and a Prometheus with its alerts beside it, to look at on this machine.

    make demo-ops                              a simulated market
    make demo-ops ARGS='kafka://...'           another feed, or several

The dashboard is for a Grafana of yours: import `helm/ticker/dashboards/ticker.json` with this Prometheus as its source.
Ends at Ctrl-C, or as soon as one of its processes does, and leaves none of them behind.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
import httpx2 as httpx

from tests.ops.chart import NAMESPACE, POD, rules_file
from tests.ops.crowd import crowding
from tests.prometheus import Prometheus, found, scraping
from tests.servers import Server, serving

SIMULATED = ("sim:?symbols=200&rate=2000",)
#: So that the client who does not read is closed while one looks.
FLAGS = ("--socket-buffer-bytes", "4096", "--send-buffer-bytes-max", "1000", "--send-buffer-s-max", "1")
LOOK_S = 0.2
DASHBOARD = Path("helm") / "ticker" / "dashboards" / "ticker.json"


class Ended(Exception):  # noqa: N818 - it is told, and is the end
    """Something that it takes is missing, or one of the processes has ended by itself."""


@dataclass
class _Demo:
    """What runs."""

    server: Server
    prometheus: Prometheus

    def check(self) -> None:
        """Raise Ended where one of them is not running any more."""
        for name, process in (("service", self.server.process), ("Prometheus", self.prometheus.process)):
            if process.poll() is not None:
                said = "".join(self.server.log[-20:]) if process is self.server.process else ""
                raise Ended(f"the {name} has ended with {process.returncode}\n{said}".rstrip())


def main(feeds: Sequence[str]) -> int:
    """Run it until SIGINT, SIGTERM or SIGHUP, which is 0, or until one of its processes ends, which is 1."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _running(feeds or SIMULATED) as demo:
            while True:
                time.sleep(LOOK_S)
                demo.check()
    except KeyboardInterrupt:
        return 0
    except Ended as ended:
        click.echo(f"demo: {ended}", err=True)
        return 1


@contextmanager
def _running(feeds: Sequence[str]) -> Iterator[_Demo]:
    if found("prometheus") is None:
        raise Ended("expected a Prometheus, and found none: `make prometheus` gets it where that may be done")
    with tempfile.TemporaryDirectory(prefix="ticker-demo-") as name:
        folder = Path(name)
        with serving(*feeds, flags=FLAGS, session=True) as server:
            if server.get("/metrics").status_code != httpx.codes.OK:
                raise Ended(f"expected metrics at {server.url}/metrics, and found none")
            with crowding(server.url), scraping(folder, _config(folder, server.url), session=True) as prometheus:
                told = [
                    "a service, and clients of all kinds:",
                    *(f"  {server.url}{path}" for path in ("/", "/metrics")),
                    "a Prometheus that scrapes it, with the alerts:",
                    *(f"  {prometheus.url}{path}" for path in ("/", "/api/v1/alerts", "/api/v1/rules")),
                    f"for Grafana: {DASHBOARD}",
                    "Ctrl-C stops all of it",
                ]
                click.echo("\n".join(told))
                yield _Demo(server, prometheus)


def _config(folder: Path, url: str) -> dict[str, Any]:
    """Scrape the service as if it were a pod of the release whose rules these are."""
    target = {"targets": [url.removeprefix("http://")], "labels": {"namespace": NAMESPACE, "pod": POD}}
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(rules_file(folder / "rules.json"))],
        "scrape_configs": [{"job_name": "ticker", "static_configs": [target]}],
    }


def _interrupt(_: int, __: FrameType | None) -> None:
    """Begin to end; what comes after that changes nothing, and nothing is left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
