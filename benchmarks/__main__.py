"""`python -m benchmarks`: run them, print a table, write `benchmarks/out/bench.json`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import access, fanout, ingest, kafka, latency, page, replays, rounds, scrape
from benchmarks.figures import Benchmark, Measured, Row, Scale, markdown, rows, table
from benchmarks.processes import OUT, MeterError, lacking, raise_limits

BENCHMARKS: Final = (
    *fanout.BENCHMARKS,
    *access.BENCHMARKS,
    *scrape.BENCHMARKS,
    *latency.BENCHMARKS,
    *rounds.BENCHMARKS,
    *ingest.BENCHMARKS,
    *replays.BENCHMARKS,
    *kafka.BENCHMARKS,
    *page.BENCHMARKS,
)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(names)}")
    parser.add_argument("--runs", type=int, default=3, help="how often to run each; figures are medians (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="one small run that shows that all works: no figures to note"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/performance.md has it")
    parsed = parser.parse_args(given)
    wanted = names if parsed.only is None else parsed.only.split(",")
    for name in wanted:
        if name not in names:
            parser.error(f"--only: expected some of {','.join(names)}, was {name!r}")
    if parsed.runs < 1:
        parser.error(f"--runs: expected 1 or more, was {parsed.runs}")
    parsed.chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in wanted]
    return parsed


def measured(benchmark: Benchmark, scale: Scale, runs: int) -> list[Row]:
    found: list[Measured] = []
    for number in range(1, runs + 1):
        start = time.monotonic()
        print(f"{benchmark.name}: run {number} of {runs} ...", end="", file=sys.stderr, flush=True)
        found.append(benchmark.run(scale))
        print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
    return rows(benchmark.figures, found)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main(given: Sequence[str] | None = None) -> int:
    """0 where everything that was asked for was measured; whether targets are met is in the table."""
    asked = arguments(given)
    scale = Scale(quick=asked.quick)
    found: list[Row] = []
    left_out: dict[str, str] = {}
    before, without = machine(), lacking()
    raise_limits()
    for benchmark in asked.chosen:
        if benchmark.meters and without is not None:
            left_out[benchmark.name] = without
            continue
        try:
            found += measured(benchmark, scale, 1 if asked.quick else asked.runs)
        except MeterError as failure:
            print(file=sys.stderr)
            left_out[benchmark.name] = str(failure)
    print(markdown(found) if asked.markdown else table(found))
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    OUT.mkdir(exist_ok=True)
    content = {"machine": before, "quick": asked.quick, "rows": [row.json() for row in found], "left_out": left_out}
    (OUT / "bench.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if left_out else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and not without stopping what was started
    sys.exit(main())
