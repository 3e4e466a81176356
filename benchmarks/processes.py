"""Servers and meters: each a process of its own, pinned to a core, bounded in time, and stopped by its id.

Servers run on the first core that this process may use, the load on the second.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

HERE: Final = Path(__file__).parent
OUT: Final = HERE / "out"
START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 10.0
#: What connecting and subscribing may take beyond the time that is asked for.
CONNECT_S_MAX: Final = 90.0
DESCRIPTORS: Final = 12_000


class MeterError(Exception):
    """A server or a meter did not do its part; the text says which and why."""


def lacking() -> str | None:
    """Why this machine cannot run the meters; None where it can."""
    if sys.platform != "linux":
        return "the meters need Linux"
    if len(os.sched_getaffinity(0)) < 2:
        return "the meters need two cores: one for the server and one for the load"
    if shutil.which("cc") is None:
        return "the meters are compiled with cc, which is not there"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        return f"the load needs {DESCRIPTORS:,} open files, the limit (ulimit -Hn) is {hard:,}"
    return None


def cores() -> tuple[int, int]:
    """The core for the server and the one for the load."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """What this thread starts or runs meanwhile, stays on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_limits() -> None:
    """Allow this process and those that it starts as many open files as the load needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def compiled(name: str) -> Path:
    """The program of `name`.c, compiled where it is not newer than its source."""
    source, program = HERE / f"{name}.c", OUT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        OUT.mkdir(exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            ["cc", "-O2", "-o", str(made), str(source)], capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise MeterError(f"cc: {source.name}: {done.stderr.strip()}")
        made.replace(program)
    return program


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its process id, and its port on 127.0.0.1."""

    pid: int
    port: int


@contextmanager
def running(command: Sequence[str], *, ready: str | None = None) -> Iterator[Server]:
    """A server on the server's core. Its first line on stdout ends with its port, or holds its address.

    `ready` is the path that answers 200 once it is ready; where there is none, its first line says so.
    """
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        with pinned(cores()[0]):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        try:
            assert process.stdout is not None
            patience = Timer(START_S_MAX, process.kill)
            patience.daemon = True
            patience.start()
            line = process.stdout.readline()
            patience.cancel()
            found = re.search(r"(\d+)/?$", line)
            if found is None:
                process.wait(STOP_S_MAX)
                log.seek(0)
                raise MeterError(f"{_named(command)} did not start: {line}{log.read()}")
            port = int(found[1])
            if ready is not None:
                _await(f"http://127.0.0.1:{port}{ready}", process)
            try:
                yield Server(process.pid, port)
            except MeterError as failure:  # what the server has said of it may tell why
                log.seek(0)
                raise MeterError(f"{failure}\n{log.read()}".strip()) from None
        finally:
            _stop(process)


def _environment() -> dict[str, str]:
    """This process's environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TICKER_")}


def _named(command: Sequence[str]) -> str:
    return " ".join(part for part in command if part != sys.executable)


def _await(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            pass
        time.sleep(0.05)
    raise MeterError(f"{url}: expected 200 within {START_S_MAX:g} s")


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the meter has seen of one server in the time that counts."""

    seconds: float
    items: int
    frames: int
    #: Bytes of an item with its comma, on average.
    item_bytes: float
    #: CPU time of the server, all its threads.
    cpu_s: float
    #: Connections that the server has closed, and rounds that it says it has skipped.
    closed: int
    skipped: int
    connect_s: float
    #: Resident memory of the server before the first connection, and at the end.
    rss_idle: int
    rss: int
    #: Quantiles in microseconds by name (`p50`, `p99`, ...), from a round's time and from an item's.
    round_us: dict[str, int]
    tick_us: dict[str, int]

    @property
    def items_per_s(self) -> float:
        return self.items / self.seconds

    @property
    def items_per_cpu_s(self) -> float:
        return self.items / self.cpu_s

    @property
    def core_share(self) -> float:
        return self.cpu_s / self.seconds

    def rss_per(self, clients: int) -> float:
        return (self.rss - self.rss_idle) / clients


#: What stands around the items of an update: {"type":"update","channel":"ticker","ts":1723161360200000,"items":[ ... }
AROUND_BYTES: Final = len('{"type":"update","channel":"ticker","ts":1723161360200000,"items":[}')


def metered(
    server: Server,
    messages: Sequence[str],
    *,
    warm_s: float,
    seconds: float,
    path: str = "/v1/stream",
    timing: bool = False,
    header: str | None = None,
) -> Reading:
    """Let the meter connect to `server` once for each of `messages`, send it, and read for `seconds`.

    `header` is one more line of each request's head.
    """
    with TemporaryDirectory() as folder:
        spec = Path(folder) / "spec"
        spec.write_text("".join(f"{path}\t{message}\n" for message in messages))
        numbers = {"-n": len(messages), "-p": server.port, "-w": warm_s, "-s": seconds, "-P": server.pid}
        command = [str(compiled("wsmeter")), "-f", str(spec), *(str(part) for pair in numbers.items() for part in pair)]
        limit_s = warm_s + seconds + CONNECT_S_MAX
        with pinned(cores()[1]):
            try:
                done = subprocess.run(
                    [*command, *(["-H", header] if header else []), *(["-l"] if timing else [])],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=limit_s,
                )
            except subprocess.TimeoutExpired:
                raise MeterError(f"wsmeter: expected to be done within {limit_s:g} s") from None
    if done.returncode:
        raise MeterError(done.stderr.strip())
    return reading(json.loads(done.stdout))


def reading(line: dict[str, Any]) -> Reading:
    """What one line of the meter says."""
    updates, bare = line["update"], line["bare"]
    items = updates["items"] + bare["items"]
    payload = updates["bytes"] - updates["frames"] * AROUND_BYTES + bare["bytes"]
    return Reading(
        seconds=line["seconds"],
        items=items,
        frames=updates["frames"] + bare["frames"],
        item_bytes=payload / items if items else 0.0,
        cpu_s=line["cpu_s"],
        closed=line["closed"] + line["closed_before"],
        skipped=line["skipped"],
        connect_s=line["connect_s"],
        rss_idle=line["rss_idle"],
        rss=line["rss"],
        round_us=line.get("round_us", {}),
        tick_us=line.get("tick_us", {}),
    )
