"""The floors of the building: an import only ever goes down, and what is called pure is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ticker

ROOT = Path(__file__).parent.parent

#: From the ground up; modules of one floor do not import each other.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "ticker.errors ticker.settings ticker.mirror ticker.logs ticker.tracing",
        "feeds.ticks feeds.clock",
        "feeds.convert feeds.fields feeds.merge feeds.pacing feeds.feed feeds.parts feeds.blocks feeds.kafka.merging",
        "feeds.decode feeds.spans feeds.options feeds.encode feeds.ordering feeds.kafka.setup feeds.kafka.outage feeds.kafka.holding",
        "feeds.objects feeds.vendors feeds.kafka.address feeds.kafka.cluster",
        "feeds.jsonlines feeds.values feeds.capture feeds.dbn feeds.kafka.partitions feeds.kafka.consumer",
        "feeds.csvlines",
        "feeds.readers feeds.formats feeds.recorder",
        "feeds.log feeds.simulated feeds.kafka.records feeds.kafka.producer",
        "feeds.replay feeds.kafka.feed",
        "feeds.spec",
        "ticker.columns",
        "ticker.quotes",
        "ticker.protocol ticker.directory ticker.reconnect ticker.blocking ticker.health",
        "ticker.access",
        "ticker.counts",
        "ticker.journal ticker.watchlist ticker.audiences",
        "ticker.session ticker.dialogue ticker.paces ticker.checkpoints ticker.tape ticker.bars",
        "ticker.lanes ticker.journals ticker.playback",
        "ticker.clients",
        "ticker.hub ticker.run ticker.patient",
        "ticker.presence ticker.gate",
        "ticker.transport ticker.client ticker.index ticker.replaying ticker.credentials ticker.keys",
        "ticker.heads ticker.draining",
        "ticker.recorded ticker.catchup",
        "ticker.replays ticker.service ticker.tail ticker.record ticker.produce ticker.play ticker.check",
        "ticker.tiers",
        "ticker.entry ticker.metrics",
        "ticker.http ticker.page",
        "ticker.replay_app",
        "ticker.streams",
        "ticker.server",
        "ticker.cli",
        "ticker.__main__",
    )
)
PURE = frozenset(
    (
        *("feeds.ticks", "feeds.convert", "feeds.fields", "feeds.decode", "feeds.jsonlines", "feeds.merge"),
        *("feeds.objects", "feeds.values", "feeds.kafka.merging", "feeds.kafka.holding"),
        *("ticker.errors", "ticker.settings", "ticker.quotes", "ticker.protocol", "ticker.session", "ticker.paces"),
        *("feeds.spans", "feeds.vendors"),
        *("feeds.parts", "feeds.encode", "feeds.blocks", "feeds.ordering", "feeds.capture"),
        *("ticker.checkpoints", "ticker.playback", "ticker.columns", "ticker.journal", "ticker.tape", "ticker.bars"),
        *("ticker.watchlist", "ticker.audiences", "ticker.journals", "ticker.clients"),
        *("ticker.directory", "ticker.access", "ticker.presence", "ticker.gate", "ticker.counts"),
        *("ticker.lanes", "ticker.hub", "ticker.mirror", "ticker.reconnect", "ticker.dialogue"),
    )
)
#: What a pure module may import besides modules that are pure themselves.
PURE_LIBRARIES = frozenset(
    (
        *("__future__", "abc", "array", "bisect", "collections", "dataclasses", "datetime", "decimal", "email", "enum"),
        *(
            "fnmatch",
            "functools",
            "hashlib",
            "hmac",
            "itertools",
            "math",
            "operator",
            "random",
            "re",
            "secrets",
            "contextlib",
        ),
        *("struct", "threading", "typing", "weakref", "ipaddress", "urllib"),
        *("jwt", "msgspec", "numpy", "orjson", "pyarrow"),
    )
)
#: A lock makes `Symbols` whole for feeds that decode in threads; nothing else of threading is for pure code.
LOCKED = frozenset(("feeds.ticks",))
IMPURE_CALLS = frozenset(("open", "print", "input", "exec", "eval"))


def modules() -> dict[str, Path]:
    found = {}
    for package in ("feeds", "ticker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import in a file; name is empty for `import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def floor_of(module: str) -> int | None:
    return next((height for height, floor in enumerate(FLOORS) if module in floor), None)


PACKAGES = frozenset(("feeds", "feeds.kafka", "ticker"))


@pytest.mark.parametrize("module", sorted(modules().keys() - PACKAGES))
def test_every_module_has_a_floor_and_imports_only_from_below(module: str) -> None:
    height = floor_of(module)
    assert height is not None, f"{module} has no floor"
    for package, name in imports(modules()[module]):
        imported = f"{package}.{name}" if package in PACKAGES else package
        if imported.split(".")[0] in PACKAGES:
            below = floor_of(imported)
            assert below is not None, f"{module} imports {imported}, which has no floor"
            assert below < height, f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("module", sorted(name for name in modules() if name.split(".")[0] == "feeds"))
def test_feeds_know_nothing_of_the_service(module: str) -> None:
    assert not [name for name, _ in imports(modules()[module]) if name.split(".")[0] == "ticker"]


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_meet_no_clock_no_socket_no_file_and_no_loop(module: str) -> None:
    path = modules()[module]
    for imported, name in imports(path):
        if imported.split(".")[0] in PACKAGES:
            within = f"{imported}.{name}" if imported in PACKAGES else imported
            assert within in PURE, f"{module} is pure, {within} is not"
        else:
            assert imported.split(".")[0] in PURE_LIBRARIES, f"{module} is pure and imports {imported}"
            assert imported != "threading" or (module in LOCKED and name == "Lock")
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{module} is pure and waits"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, f"{module} is pure and calls {node.func.id}"


def test_every_floor_is_built() -> None:
    assert frozenset().union(*FLOORS) <= modules().keys()


def test_nothing_is_sent_from_an_ingest_callback() -> None:
    """The feed writes the table, the round sends: only `flush` of the hub's verbs for ticks may reach an outlet."""
    folds = [
        node
        for path in (ROOT / "ticker" / "hub.py", ROOT / "ticker" / "paces.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "fold"
    ]
    assert len(folds) == 2
    for fold in folds:
        calls = [node.func for node in ast.walk(fold) if isinstance(node, ast.Call)]
        called = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        assert not called & {"offer", "send", "round", "flush"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(modules()[module].read_text())) or modules()[module].stat().st_size == 0


def test_the_python_of_this_run_is_supported() -> None:
    assert (3, 11) <= sys.version_info[:2] <= (3, 14)


def test_no_module_hides_a_name_that_its_package_gives() -> None:
    """Once imported, it would stand in its place."""
    for name in ticker.__all__:
        assert f"ticker.{name}" not in modules()
