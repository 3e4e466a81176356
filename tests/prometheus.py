"""A Prometheus for tests: Debian's package, which brings promtool. `python -m tests.prometheus --install` gets it.

The package is unpacked into the build folder, so nothing of the machine is changed and no service is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import orjson

from tests.proxies import free_port

ROOT: Final = Path(__file__).parent.parent
UNPACKED: Final = ROOT / "build" / "prometheus"
INSTALL_S_MAX: Final = 300
START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 10.0
PROMTOOL_S_MAX: Final = 60
LOOK_S: Final = 0.1


def found(program: str) -> str | None:
    """Where `prometheus` or `promtool` is: the system's, or the one that was unpacked; None where there is none."""
    return shutil.which(program) or shutil.which(program, path=str(UNPACKED / "usr" / "bin"))


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Its exit code, and what it said."""
    program = found("promtool")
    assert program is not None
    result = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=PROMTOOL_S_MAX, check=False
    )
    return result.returncode, result.stdout + result.stderr


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    process: subprocess.Popen[bytes]
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now. Raises AssertionError with what it objects to."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", f"{expression}: {answer['error']}"
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] == "vector" else [result]

    def get(self, path: str) -> Any:
        """The data of another answer of its API, such as `rules` or `targets`."""
        return httpx.get(f"{self.url}/api/v1/{path}", timeout=10).json()["data"]


@contextmanager
def scraping(folder: Path, config: dict[str, Any], *, session: bool = False) -> Iterator[Prometheus]:
    """A Prometheus with a configuration, which keeps all that it writes in a folder, once it is ready.

    With `session` it is in one of its own, which no signal of the terminal reaches.
    """
    program = found("prometheus")
    assert program is not None
    file, log, url = folder / "prometheus.json", folder / "prometheus.log", f"127.0.0.1:{free_port()}"
    file.write_bytes(orjson.dumps(config))  # JSON is YAML
    flags = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={url}"]
    assets = UNPACKED / "usr" / "share" / "prometheus" / "web"
    if assets.is_dir():
        flags.append(f"--web.local-assets={assets}")
    with log.open("wb") as output:
        process = subprocess.Popen([program, *flags], stdout=output, stderr=output, start_new_session=session)
    try:
        _wait(process, f"http://{url}/-/ready", log)
        yield Prometheus(process, f"http://{url}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S_MAX
    while time.monotonic() < end:
        assert process.poll() is None, f"Prometheus has ended with {process.returncode}\n{log.read_text()}"
        try:
            if httpx.get(url, timeout=1).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(LOOK_S)
    raise AssertionError(f"Prometheus was not ready within {START_S_MAX:g} s\n{log.read_text()}")


def install() -> None:
    """Get Debian's package where there is one, and say so where not."""
    if found("prometheus") and found("promtool"):
        return
    left_out = "No Prometheus was found, and none could be had: the tests of alerts and of the dashboard's queries skip"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        print(f"{left_out} (that takes apt-get).")
        return
    UNPACKED.mkdir(parents=True, exist_ok=True)
    if not os.geteuid():
        _run("apt-get", "update", "-q")  # what fails here fails below, and is said there
    reason = _run("apt-get", "download", "-q", "prometheus")
    for package in UNPACKED.glob("prometheus_*.deb"):
        reason = reason or _run("dpkg-deb", "--extract", package.name, ".")
        package.unlink()
    if reason:
        print(f"{left_out} ({reason}).")


def _run(*command: str) -> str:
    """Run a command in the folder; why it failed, if it did."""
    name = " ".join(command[:2])
    try:
        result = subprocess.run(
            command, cwd=UNPACKED, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{name} took too long"
    said = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
    return f"{name}: {said[0]}" if result.returncode else ""


if __name__ == "__main__":
    if sys.argv[1:] != ["--install"]:
        sys.exit("usage: python -m tests.prometheus --install")
    install()
