"""The Dockerfile: what it says, what its build context lets in, and what its steps make, run as they are without an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import httpx2 as httpx
import pytest

from tests.servers import environment

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
START_S_MAX = 60.0


@dataclass
class Stage:
    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [text for what, text in self.steps if what == word]


def dockerfile() -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage, and the stages."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].steps.append((word, rest))
        else:
            name, _, value = rest.partition("=")
            arguments[name] = value
    return arguments, stages


def let_in(path: str) -> bool:
    """Whether a file is in the build context: the last pattern that matches it, or a folder above it, decides."""
    inside = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(rf"{pattern}(/.*)?", path):
                inside = line.startswith("!")
    return inside


def context() -> list[str]:
    """Every file that a build is given. What is never let in is not walked."""
    found = []
    for folder, names, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        names[:] = [name for name in names if name not in ("node_modules", ".venv", ".git")]
        found += [path for name in files if let_in(path := (here / name).as_posix())]
    return found


def copies(stage: Stage) -> Iterator[tuple[str, list[str], str]]:
    """Each COPY: the stage it copies from or "", the sources, and where to."""
    for text in stage.all("COPY"):
        *sources, target = text.split()
        of = sources.pop(0).removeprefix("--from=") if sources[0].startswith("--from=") else ""
        yield of, sources, target


def test_every_base_is_pinned_by_digest() -> None:
    arguments, stages = dockerfile()
    assert len(stages) == 3
    for stage in stages:
        assert re.fullmatch(r"\$\{[A-Z_]+\}", stage.base)
        assert re.fullmatch(
            r"\S+:[0-9]+\.[0-9]+\.[0-9]+-(bookworm-slim|slim-trixie)@sha256:[0-9a-f]{64}", arguments[stage.base[2:-1]]
        )


def test_the_image_takes_neither_root_nor_a_shell() -> None:
    final = dockerfile()[1][-1]
    assert final.all("USER") == ["10001:10001"]
    assert final.all("STOPSIGNAL") == ["SIGTERM"]
    assert final.all("EXPOSE") == ["8000"]
    assert json.loads(final.all("ENTRYPOINT")[0]) + json.loads(final.all("CMD")[0]) == ["ticker", "serve"]
    assert json.loads(final.all("HEALTHCHECK")[0].split("CMD ")[1])[:2] == ["python", "-c"]
    assert all(json.loads(step) for step in final.all("RUN"))
    assert final.all("COPY") == ["--from=build /opt/ticker /opt/ticker"]


def test_the_labels_say_what_the_package_does() -> None:
    final = dockerfile()[1][-1]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', " ".join(final.all("LABEL"))))
    assert labels["title"] == PACKAGE["name"]
    assert labels["licenses"] == PACKAGE["license"]
    assert labels["description"] == PACKAGE["description"]
    assert {"version", "revision", "source"} < labels.keys()
    assert f"VERSION={PACKAGE['version']}" in final.all("ARG")


def test_the_health_check_asks_the_port_that_is_set() -> None:
    program = json.loads(dockerfile()[1][-1].all("HEALTHCHECK")[0].split("CMD ")[1])[2]
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(TICKER_PORT="1"), capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Connection refused" in result.stderr


def test_what_is_copied_is_let_in_and_no_more() -> None:
    files = context()
    sources = [source for stage in dockerfile()[1] for of, some, _ in copies(stage) if not of for source in some]
    assert sources
    for source in sources:
        assert any(PurePosixPath(file).is_relative_to(source) for file in files), source
    for file in files:
        assert any(PurePosixPath(file).is_relative_to(source) for source in sources), file


@pytest.mark.parametrize(
    "path",
    [
        *("tests/servers.py", ".git/config", "docs/deploy.md", "benchmarks/rounds.py", ".venv/bin/python", ".env"),
        *("Dockerfile", "key.pem", "ticker/__pycache__/cli.pyc", "ticker/web/node_modules/react/index.js"),
        *("ticker/web/sdk/node_modules/x.js", "ticker/web/static/index.html", "ticker/web/sdk/tests/feed.test.ts"),
    ],
)
def test_what_has_no_place_in_an_image_is_not_let_in(path: str) -> None:
    assert not let_in(path)


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


# -- without extras ------------------------------------------------------------------------------------------------

#: `ticker` in a process in which the libraries of extras cannot be imported.
BARE = (
    "import sys; sys.modules['databento_dbn'] = None; sys.modules['opentelemetry'] = None;"
    "from ticker.cli import main; main()"
)


@pytest.mark.parametrize(("feed", "path"), [("sim:?symbols=5", "/readyz"), ("kafka://127.0.0.1:1/ticks", "/livez")])
def test_serving_takes_no_extra(feed: str, path: str) -> None:
    command = [sys.executable, "-c", BARE, "serve", "--port", "0", "--feed", feed]
    with Running(command) as running:
        running.wait_for(path)


def test_a_recording_that_needs_an_extra_says_which(tmp_path: Path) -> None:
    recording = tmp_path / "day.dbn"
    recording.write_bytes(b"DBN\x03" + bytes(100))
    command = [sys.executable, "-c", BARE, "serve", "--port", "0", "--feed", f"replay:{recording}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment(), check=False)
    assert "DBN needs databento-dbn, which is not installed: pip install databento-dbn" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 2


class Running:
    """A `ticker serve --port 0` of the command given, until the block ends: then it must stop with exit code 0."""

    def __init__(self, command: list[str], **variables: str) -> None:
        self.command = command
        self.variables = variables

    def __enter__(self) -> Running:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, text=True, env=environment(PYTHONUNBUFFERED="1", **self.variables)
        )
        assert self.process.stdout is not None
        found = re.search(r":([0-9]+)", self.process.stdout.readline())
        assert found, "it did not start"
        self.url = f"http://127.0.0.1:{found[1]}"
        return self

    def wait_for(self, path: str) -> None:
        while httpx.get(self.url + path, timeout=10).status_code != 200:
            assert time.monotonic() < self.began + START_S_MAX, f"{path}: expected 200 within {START_S_MAX} s"
            time.sleep(0.05)

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
        assert kind is not None or code == 0


# -- the steps themselves ------------------------------------------------------------------------------------------


def run_stage(stage: Stage, home: Path, extras: str) -> None:
    """Run a stage's steps as they are, with `home`/`name` for its root directory."""
    root = home / stage.name
    here, variables = root, {"EXTRAS": extras}
    for word, text in stage.steps:
        if word == "WORKDIR":
            here = root / text.removeprefix("/")
            here.mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            variables |= dict(re.findall(r"(\w+)=(\S+)", text))
        elif word == "COPY":
            continue_from(stage, text, home, here)
        elif word == "RUN":
            command = re.sub(r"(?<![\w.])/(opt|src)\b", rf"{root}/\1", text)
            path = f"{home / 'python'}:{os.environ['PATH']}"
            result = subprocess.run(
                ["/bin/sh", "-ec", command],
                cwd=here,
                env=os.environ | variables | {"PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"


def continue_from(stage: Stage, text: str, home: Path, here: Path) -> None:
    """One COPY: of the build context, or of a stage that has been run."""
    of, sources, target = next(copies(Stage("", "", [("COPY", text)])))
    for source in sources:
        base = home / of / source.removeprefix("/") if of else ROOT / source
        to = here / target
        if base.is_file():
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(base, to)
        elif of:
            shutil.copytree(base, to, dirs_exist_ok=True)
        else:
            for file in context():
                if PurePosixPath(file).is_relative_to(source):
                    place = to / PurePosixPath(file).relative_to(source)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / file, place)


@pytest.fixture
def built() -> Iterator[Path]:
    """A folder in which every stage but the last has been run, for anyone to read."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    home = Path(tempfile.mkdtemp(prefix="ticker-container-"))
    try:
        home.chmod(0o755)
        (home / "python").mkdir()
        (home / "python" / "python").symlink_to(Path(sys.base_prefix, "bin", "python3"))
        for stage in dockerfile()[1][:-1]:
            run_stage(stage, home, "")
        yield home
    finally:
        shutil.rmtree(home)


@pytest.mark.container
@pytest.mark.timeout(900)
def test_what_the_steps_make_serves_without_root_from_a_read_only_tree(built: Path) -> None:
    probe = ["unshare", "--mount", "setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", "true"]
    if not all(map(shutil.which, ("unshare", "setpriv"))) or subprocess.run(probe, check=False).returncode:
        pytest.skip("namespaces and users cannot be changed here")
    home = built / "build" / "opt" / "ticker"
    installed = {path.name.split("-")[0] for path in home.glob("lib/python*/site-packages/*.dist-info")}
    assert {"ticker", "pyarrow", "aiokafka"} <= installed
    assert not installed & {"pip", "setuptools", "pytest", "mypy", "hatchling", "databento_dbn"}
    assert list(home.glob("lib/python*/site-packages/ticker/web/static/index.html"))
    assert list(home.glob("lib/python*/site-packages/ticker/__pycache__/cli.*.pyc"))
    read_only = f"mount --bind {built} {built} && mount -o remount,bind,ro {built} && mount -o remount,bind,ro /"
    user = "exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all"
    command = ["unshare", "--mount", "sh", "-ec", f"{read_only}; cd /; {user} {home}/bin/ticker serve --port 0"]
    with Running(command, PYTHONDONTWRITEBYTECODE="1", TICKER_HOST="0.0.0.0") as running:
        running.wait_for("/readyz")
        assert "<html" in httpx.get(running.url + "/").text
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        assert re.search(r"^Uid:\t10001\t10001", status, re.MULTILINE)


@pytest.mark.container
@pytest.mark.timeout(900)
def test_the_image_is_built_and_runs() -> None:
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    for image in dockerfile()[0].values():
        pulled = subprocess.run(["buildah", "pull", "--quiet", image], capture_output=True, text=True, check=False)
        if pulled.returncode:
            pytest.skip(f"{image} cannot be pulled: {pulled.stderr.strip().splitlines()[-1]}")
    subprocess.run(["buildah", "build", "--format", "docker", "--tag", "ticker-test", ROOT], check=True)
    made = subprocess.run(["buildah", "from", "ticker-test"], capture_output=True, text=True, check=True).stdout.strip()
    try:
        command = [
            "buildah",
            "run",
            "--user",
            "10001:10001",
            "--network",
            "host",
            made,
            "--",
            "ticker",
            "serve",
            "--port",
            "0",
        ]
        with Running(command) as running:
            running.wait_for("/readyz")
    finally:
        subprocess.run(["buildah", "rm", made], check=True)
