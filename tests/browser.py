"""A browser for tests: Chromium as the system has it, driven by Playwright. `python -m tests.browser --install` gets one.

It is started without what reaches out to its makers' hosts, and talks to this machine alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions"),
)
INSTALL_S_MAX: Final = 600
ROOT: Final = Path(__file__).parent.parent
#: What the tests leave to be looked at.
ARTEFACTS: Final = ROOT / "build" / "page"


def found() -> str | None:
    """Where the system's Chromium is; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def built() -> bool:
    """Whether the page has been built."""
    return (ROOT / "ticker" / "web" / "static" / "index.html").is_file()


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Browser, url: str, *, script: str = "", quiet: bool = True, **options: Any) -> Iterator[Page]:
    """A page in a profile of its own, which is to log no error while `quiet`. `script` runs before the page's own."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(15_000)
    if script:
        context.add_init_script(script)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        page.goto(url)
        yield page
        if quiet:
            assert not errors, f"the page's console has errors: {errors}"
    finally:
        context.close()


def install() -> None:
    """Get a Chromium where the system's packages may be installed, and say so where not."""
    if found():
        return
    left_out = "No Chromium was found, and none could be installed: the tests of the page in a browser are left out"
    if not shutil.which("apt-get") or os.geteuid():
        print(f"{left_out} (that takes apt-get, and root).")
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"],
    ):
        try:
            result = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"{left_out} ({' '.join(command)} took too long).")
            return
        if result.returncode:
            reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
            print(f"{left_out} ({' '.join(command)}: {reason[0]}).")
            return


if __name__ == "__main__":
    if sys.argv[1:] != ["--install"]:
        sys.exit("usage: python -m tests.browser --install")
    install()
