"""The browser code by its own tests, those against a real server among them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import environment, serving

WEB = Path(__file__).parent.parent / "ticker" / "web"
READY = (WEB / "node_modules" / ".ready").exists() and shutil.which("npm") is not None


@pytest.mark.skipif(not READY, reason="its packages are not installed: make web takes Node.js 20 or newer")
def test_the_browser_code_passes_its_own_tests() -> None:
    with serving("sim:?symbols=20&rate=1000&seed=1") as server:
        result = subprocess.run(
            ["npm", "run", "--silent", "check"],
            cwd=WEB,
            env=environment(TICKER_URL=server.url, NO_COLOR="1"),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout, result.stdout


def test_no_host_of_a_registry_stands_in_the_lock() -> None:
    lock = (WEB / "package-lock.json").read_text()
    assert not re.findall(r'"resolved": "https?:', lock)
