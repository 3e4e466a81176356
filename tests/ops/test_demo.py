"""`make demo-ops` brings up what it says, and takes all of it down."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx2 as httpx
import psutil
import pytest

from tests.prometheus import found
from tests.servers import environment

STOP_S_MAX = 30.0


@pytest.mark.skipif(found("prometheus") is None, reason="Prometheus was not found: `make prometheus` gets it")
def test_it_shows_the_service_and_prometheus_and_ends_at_ctrl_c() -> None:
    command = [sys.executable, "-m", "tests.demo_ops", "sim:?symbols=5&rate=100"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment()) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "Ctrl-C" not in said and (line := process.stdout.readline()):
                said += line
            if "Ctrl-C" in said:
                children = psutil.Process(process.pid).children(recursive=True)
                addresses = re.findall(r"http://\S+", said)
                answers = {address: httpx.get(address, timeout=10).status_code for address in addresses}
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=STOP_S_MAX)
            else:
                _, err = process.communicate(timeout=STOP_S_MAX)
                raise AssertionError(f"it has ended with {process.returncode}\n{said}{err}")
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert len(children) == 2
    assert not [child for child in children if child.is_running()]
    # The page may not be built, and that of Prometheus is at another path in each of its builds.
    assert [address for address, status in answers.items() if status >= 500] == []
    assert {status for address, status in answers.items() if address.endswith(("/metrics", "/alerts", "/rules"))} == {
        200
    }
