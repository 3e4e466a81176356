"""A whole installation on this machine, to look at: a Kafka-compatible broker, what writes to it, and two replicas.

    make demo-kafka                        a simulated market
    make demo-kafka ARGS=day.parquet       a recording at its own pace, over and over
    make demo-kafka ARGS='days --speed 5'  whatever `ticker produce` takes

Ends at Ctrl-C, or as soon as one of its processes does, and leaves none of them behind.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import httpx2 as httpx

from tests.brokers import Tansu
from tests.proxies import free_port
from tests.servers import environment
from ticker.produce import is_spec

TOPIC = "ticks"
PARTITIONS = 3
SIMULATED = "sim:?symbols=200&rate=2000"
#: Where the replicas listen, if nobody else does.
PORTS = (8000, 8001)
START_S_MAX = 60.0
STOP_S_MAX = 10.0
LOOK_S = 0.1
LOG_CHARS_MAX = 2000


class Ended(Exception):  # noqa: N818 - it is told, and is the end
    """One of the processes has ended by itself, or did not become ready."""


class _Broker(Tansu):
    """A broker that Ctrl-C does not reach, so that those who talk to it end before it does."""

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        return _spawn(command, self.folder / log)


class _Demo:
    """The processes, each with a log in the broker's folder."""

    def __init__(self, broker: Tansu) -> None:
        self._broker = broker
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start `ticker` with arguments."""
        self._processes[name] = _spawn([sys.executable, "-m", "ticker", *arguments], self._log(name))

    def await_ready(self, url: str) -> None:
        """Return once the service there is ready. Raises Ended."""
        end = time.monotonic() + START_S_MAX
        while time.monotonic() < end:
            self.check()
            try:
                if httpx.get(f"{url}/readyz", timeout=1).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(LOOK_S)
        raise Ended(f"{url} was not ready within {START_S_MAX:g} s")

    def check(self) -> None:
        """Raise Ended where one of them, or the broker, is not running any more."""
        assert self._broker.process is not None
        for name, process in {"broker": self._broker.process, **self._processes}.items():
            if process.poll() is not None:
                said = self._log(name).read_text(errors="replace")[-LOG_CHARS_MAX:]
                raise Ended(f"the {name} has ended with {process.returncode}\n{said}".rstrip())

    def stop(self, *, at_once: bool) -> None:
        """End all but the broker, the last one first."""
        for process in reversed(self._processes.values()):
            (process.kill if at_once else process.terminate)()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._broker.folder / f"{name}.log"


def main(arguments: Sequence[str]) -> int:
    """Run it until SIGINT, SIGTERM or SIGHUP, which is 0, or until one of its processes ends, which is 1."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _running(arguments) as demo:
            while True:
                time.sleep(LOOK_S)
                demo.check()
    except KeyboardInterrupt:
        return 0
    except Ended as ended:
        click.echo(f"demo: {ended}", err=True)
        return 1


@contextmanager
def _running(arguments: Sequence[str]) -> Iterator[_Demo]:
    with _Broker() as broker:
        broker.create(TOPIC, PARTITIONS)
        topic = f"kafka://{broker.bootstrap}/{TOPIC}"
        demo = _Demo(broker)
        try:
            ports = [_port(preferred) for preferred in PORTS]
            for number, port in enumerate(ports, 1):
                demo.start(f"replica {number}", "serve", "--feed", topic, "--port", str(port))
            demo.start("producer", "produce", *_source(arguments), "--to", topic)
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            for url in urls:
                demo.await_ready(url)
            program = Path(sys.executable).with_name("ticker")
            told = [f"two replicas serve the same topic, {topic}:", *(f"  {url}/" for url in urls)]
            told += [f"watch prices: {program} tail '*' --url {urls[0]}", "Ctrl-C stops all of it"]
            click.echo("\n".join(told))
            yield demo
        finally:
            demo.stop(at_once=not isinstance(sys.exc_info()[1], KeyboardInterrupt))


def _source(arguments: Sequence[str]) -> list[str]:
    """What `ticker produce` is given: what came, looped at its own pace if that is files."""
    if not arguments:
        return [SIMULATED]
    return [*arguments] if any(map(is_spec, arguments)) else ["--loop", "--speed", "1", *arguments]


def _interrupt(_: int, __: FrameType | None) -> None:
    """Begin to end; what comes after that changes nothing, and nothing is left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _port(preferred: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        return preferred


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which no signal of the terminal reaches."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            start_new_session=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
