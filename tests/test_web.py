"""The browser code by its own tests, those against a real server among them."""

from __future__ import annotations

import json
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


@pytest.mark.skipif(not READY, reason="its packages are not installed: make web takes Node.js 20 or newer")
def test_the_components_that_are_shown_have_the_right_types(tmp_path: Path) -> None:
    for document in (WEB.parent.parent / "README.md", WEB / "sdk" / "README.md"):
        for number, shown in enumerate(re.findall(r"```tsx\n(.*?)```", document.read_text(), re.DOTALL)):
            (tmp_path / f"{document.parent.name}{number}.tsx").write_text(shown)
    assert len(list(tmp_path.glob("*.tsx"))) == 2
    types = WEB / "node_modules" / "@types" / "react"
    paths = {
        "@ticker/sdk/react": [str(WEB / "sdk" / "src" / "react.tsx")],
        "react": [str(types)],
        "react/jsx-runtime": [str(types / "jsx-runtime")],
    }
    options = {"jsx": "react-jsx", "types": [], "paths": paths, "noEmit": True}
    config = {"extends": str(WEB / "tsconfig.base.json"), "compilerOptions": options, "include": ["*.tsx"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    command = [str(WEB / "node_modules" / ".bin" / "tsc"), "-p", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout
