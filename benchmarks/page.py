"""The page: how soon it shows prices, and what a long list that moves costs Chromium, by its own tracing.

500 symbols change ten times a second, all of them in one list that is scrolled all the while. Without a graphics card
Chromium draws on the processor: `CPU of all its processes` has that in it, the main thread, which runs the page, has not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
from playwright.sync_api import Browser, Page

from benchmarks.fanout import SYMBOLS
from benchmarks.figures import Benchmark, Figure, Measured, Scale, at_least, at_most
from benchmarks.processes import MeterError, running
from feeds.simulated import symbol_names
from tests.browser import browsing, built, found

FIGURES: Final = (
    Figure("the page: time from opening to the first prices", "ms", at_most(1000)),
    Figure("the page, 500 symbols, scrolling: frames", "frames/s", at_least(55)),
    Figure("the page, 500 symbols, scrolling: CPU of the main thread", "cores", at_most(0.5)),
    Figure("the page, 500 symbols, scrolling: CPU of all its processes", "cores", at_most(0.5)),
    Figure("the page, 500 symbols: script memory at the end, as a multiple of that at the start", "", at_most(1.1)),
)
#: Ticks a second: each of 500 symbols in nearly every round of 100 ms.
RATE: Final = 20_000
SCROLL_S: Final = 8
#: A row keeps the prices of a minute: before it has, its memory grows.
FILL_MS: Final = 70_000
PRICES: Final = "tr[data-seq] td.last"
SCROLL: Final = """seconds => new Promise(done => {
  const box = document.querySelector(".scroll"), begin = performance.now();
  let frames = 0;
  const step = time => {
    frames++;
    box.scrollTop = (box.scrollTop + 4) % (box.scrollHeight - box.clientHeight);
    if (time - begin < seconds * 1000) requestAnimationFrame(step);
    else done(frames / ((time - begin) / 1000));
  };
  requestAnimationFrame(step);
})"""


def page(scale: Scale) -> Measured:
    """One run: a server, a browser, and the list."""
    if not built():
        raise MeterError("the dashboard is not built: make web takes Node.js 20 or newer")
    if not found():
        raise MeterError("there is no Chromium")
    feed = f"sim:?symbols={SYMBOLS}&rate={RATE}"
    command = (sys.executable, "-m", "ticker", "serve", "--port", "0", "--feed", feed)
    with running(command, ready="/readyz") as server, browsing() as browser:
        address = f"http://127.0.0.1:{server.port}/"
        first_ms = _first_prices_ms(browser, address)
        names = ",".join(symbol_names(SYMBOLS))
        opened = browser.new_page(viewport={"width": 1600, "height": 900})
        opened.goto(f"{address}#list=All&symbols={names}")
        opened.wait_for_selector(PRICES)
        opened.wait_for_timeout(scale.of(FILL_MS, 500))
        heap = _heap_bytes(opened)
        frames, main, whole = _scrolled(browser, opened, scale.of(SCROLL_S, 1))
        opened.wait_for_timeout(scale.of(FILL_MS, 500))
        grown = _heap_bytes(opened) / heap
    return dict(zip((figure.name for figure in FIGURES), (first_ms, frames, main, whole, grown), strict=True))


def _first_prices_ms(browser: Browser, address: str) -> float:
    """By the browser's clock: from the start of the navigation to the first row with a price."""
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(address)
    opened.wait_for_selector(PRICES)
    first_ms = float(opened.evaluate("performance.now()"))
    context.close()
    return first_ms


def _scrolled(browser: Browser, opened: Page, seconds: int) -> tuple[float, float, float]:
    """Frames a second, and the cores that the main thread and all processes take meanwhile."""
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        before = _cpu_s()
        frames = float(opened.evaluate(SCROLL, seconds))
        whole = (_cpu_s() - before) / seconds
        browser.start_tracing(page=opened, path=trace, categories=["toplevel", "__metadata"])
        opened.evaluate(SCROLL, seconds)
        browser.stop_tracing()
        main = _main_thread_s(json.loads(trace.read_text())["traceEvents"]) / seconds
    return frames, main, whole


def _main_thread_s(events: list[dict[str, Any]]) -> float:
    """The CPU time of the busiest renderer's main thread: its tasks', which do not overlap."""
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    busy = dict.fromkeys(mains, 0.0)
    for event in events:
        thread = event["pid"], event["tid"]
        if thread in busy and event.get("ph") == "X" and event["name"] == "ThreadControllerImpl::RunTask":
            busy[thread] += event.get("tdur", event.get("dur", 0)) / 1e6
    return max(busy.values(), default=0.0)


def _cpu_s() -> float:
    """CPU time of all processes of the browser so far, in seconds."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name():
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def _heap_bytes(opened: Page) -> float:
    """What its scripts hold, after what they do not is collected."""
    session = opened.context.new_cdp_session(opened)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return float(metrics["JSHeapUsedSize"])


BENCHMARKS: Final = (Benchmark("page", FIGURES, page),)
