"""`make demo-kafka` brings up what it says, and takes all of it down."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests.feeds.conftest import trade, write_csv
from tests.servers import environment

START_S_MAX = 90.0
STOP_S_MAX = 30.0
#: The broker, two replicas, and what writes.
PROCESSES = 4


@dataclass
class Demo:
    process: subprocess.Popen[str]
    urls: list[str]
    children: list[psutil.Process]

    def child(self, word: str) -> psutil.Process:
        """The first of its processes that was started with `word`."""
        return next(child for child in self.children if word in child.cmdline())

    def end(self) -> tuple[int, str]:
        """Wait for its end; its exit code, and what it said of it."""
        _, err = self.process.communicate(timeout=STOP_S_MAX)
        assert not [child for child in self.children if child.is_running()]
        return self.process.returncode, err


@contextmanager
def demo(*arguments: str) -> Iterator[Demo]:
    """The demo, once it has said where to look."""
    command = [sys.executable, "-m", "tests.demo_kafka", *arguments]
    pipe = subprocess.PIPE
    children: list[psutil.Process] = []
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment()) as process:
        too_late = threading.Timer(START_S_MAX, process.terminate)
        too_late.start()
        try:
            assert process.stdout is not None
            said = ""
            while "Ctrl-C" not in said:
                line = process.stdout.readline()
                assert line, f"it did not start: {process.communicate()[1]}"
                said += line
            children += psutil.Process(process.pid).children(recursive=True)
            assert "/ticker tail " in said
            yield Demo(process, re.findall(r"^  (http://[0-9.:]+)/$", said, re.MULTILINE), children)
        finally:
            too_late.cancel()
            process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def items(url: str, path: str) -> dict[str, Any]:
    """What is answered as soon as there are items."""
    deadline = time.monotonic() + STOP_S_MAX
    while True:
        found: dict[str, Any] = httpx.get(url + path, timeout=10).json()
        if found["items"]:
            return found
        assert time.monotonic() < deadline, "there are no items"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_replicas_serve_the_same_and_a_signal_ends_all_of_it(number: signal.Signals, tmp_path: Path) -> None:
    day = write_csv(tmp_path / "day.csv", [trade(1_700_000_000 + n, "AB"[n % 2], n) for n in range(10)])
    with demo(*([] if number == signal.SIGINT else [str(day), "--speed", "100"])) as running:
        assert len(running.urls) == 2
        assert len(running.children) == PROCESSES
        for url in running.urls:
            assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        symbol = items(running.urls[0], "/v1/symbols")["items"][0]["symbol"]
        found = [items(url, f"/v1/snapshot?symbols={symbol}") for url in running.urls]
        assert found[0]["epoch"] == found[1]["epoch"]
        running.process.send_signal(number)
        assert running.end() == (0, "")


@pytest.mark.parametrize(("word", "name"), [("broker", "broker"), ("serve", "replica 1"), ("produce", "producer")])
def test_where_one_of_them_dies_all_of_it_ends_and_says_which(word: str, name: str) -> None:
    with demo() as running:
        running.child(word).kill()
        code, err = running.end()
        assert code == 1
        assert err.startswith(f"demo: the {name} has ended with -9")


def test_a_source_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo_kafka", str(tmp_path / "none.csv")],
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("demo: the producer has ended with 2")
    assert "none.csv: No such file or directory" in done.stderr
