"""The command line, and the only place that puts the parts together."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
import uvicorn
from click.core import ParameterSource
from rich.console import Console
from starlette.applications import Starlette
from starlette.types import ASGIApp

from feeds.clock import WallClock
from feeds.feed import ON_TIME, Feed, FeedError, Lateness, Resumable
from feeds.fields import FIELDS
from feeds.kafka.address import Address, destination
from feeds.kafka.address import parse as address
from feeds.kafka.setup import Security, Setup
from feeds.options import Spec, fields_renamed
from feeds.options import time as time_us
from feeds.replay import find_files
from feeds.spec import open_feed, open_topic
from feeds.ticks import Symbols
from ticker.access import CHANNELS, rights_of
from ticker.counts import Counts
from ticker.credentials import Credentials
from ticker.errors import RequestError
from ticker.heads import HEAD_BYTES_MAX, HeadProtocol, Waiting
from ticker.logs import set_up
from ticker.protocol import field_set
from ticker.replays import OpenLog, Replays
from ticker.server import create_app, create_internal_app, send_away, stop
from ticker.settings import Settings, flag, session_start_us, variable
from ticker.tiers import Tiers, open_tiers
from ticker.tracing import traced
from ticker.transport import StreamProtocol

log: Final = logging.getLogger(__name__)

SIMULATED: Final = "sim:?symbols=500&rate=5000&seed=1"
BACKLOG: Final = 4096
DESCRIPTORS_SPARE: Final = 200
#: Sockets beside those of clients: probes, scrapes, requests that are answered at once, and those that say nothing.
SOCKETS_SPARE: Final = 100
#: What a stop waits for peers to take what they were sent, before it cuts them off.
CUT_OFF_S: Final = 0.5
#: Signals closer than this are one: some shells send it to the group and to the process.
SIGNAL_S_MIN: Final = 0.3
#: Longer lines are broken where the output is no terminal.
LINE_MAX: Final = 1000
GC_THRESHOLD: Final = 10_000, 10, 10
TIME: Final = "a time in ISO 8601 or since 1970"
SOURCE_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
ANY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def main() -> None:
    """Run a command. A mistake of the caller's is one line on stderr and exit code 2."""
    try:
        code = cli.main(prog_name="ticker", standalone_mode=False)
    except click.ClickException as mistake:
        click.echo(f"ticker: {mistake.format_message()}", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        code = 130
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ticker")
def cli() -> None:
    """A live market-data ticker: price streams in, per-symbol deltas out."""


def _with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each setting, or for those whose names start with one of `names`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(fields(Settings)):
            if setting.name.startswith(names or ("",)):
                option = click.option(
                    flag(setting),
                    type=type(setting.default),
                    default=setting.default,
                    envvar=variable(setting),
                    show_default=True,
                    help=setting.metadata["help"],
                )
                command = option(command)
        return command

    return decorate


def _settings(values: Mapping[str, Any]) -> tuple[Settings, Setup]:
    """The settings, and what they say of Kafka. Raises UsageError."""
    try:
        settings = Settings(**values)
        security = Security(
            protocol=settings.kafka_security_protocol,
            ca_file=settings.kafka_ca_file,
            cert_file=settings.kafka_cert_file,
            key_file=settings.kafka_key_file,
            mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_username,
            password_file=settings.kafka_password_file,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return settings, Setup(
        security=security,
        session_start_us=session_start_us(settings.session_start),
        warm_up_us=settings.warm_up_s_max * 1_000_000,
    )


@cli.command()
@click.option(
    "--feed",
    "specs",
    multiple=True,
    envvar="TICKER_FEED",
    metavar="SPEC",
    help=f"Where ticks come from: kafka://HOST:PORT/TOPIC, replay:PATH or sim:; may be given several times.  [default: {SIMULATED}]",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    envvar="TICKER_SOURCE",
    metavar="NAME=PATH",
    help="Recordings that clients may replay by this name: a file, a glob or a folder; may be given several times.",
)
@_with_settings()
def serve(specs: Sequence[str], sources: Sequence[str], **values: Any) -> int:
    """Serve feeds to clients."""
    settings, kafka = _settings(values)
    set_up(settings.log_level, settings.log_format, settings.log_lines_per_s_max)
    clock, counts = WallClock(), Counts()
    tiers = open_tiers(settings, clock, partial(_open_feeds, specs or [SIMULATED], clock, kafka), counts)
    replays = _open_sources(sources, settings, clock, _topics(specs, kafka), counts)
    credentials = _credentials(settings)
    listener = _listen(settings)
    internal = _bind(settings.host, settings.internal_port) if settings.internal_port else None
    _warn_if_open(settings, credentials)
    _allow_descriptors(settings)
    return _run(tiers, replays, credentials, listener, internal)


@cli.command()
@click.argument("symbols", nargs=-1, required=True)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, envvar="TICKER_URL", help="The server.")
@click.option(
    "--interval-ms", type=click.IntRange(0, 60_000), help="Time between rounds; the server's where not given."
)
@click.option("--fields", help="Fields to show, with commas between; all where not given.")
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON; so it does into a pipe.")
@click.option("--token", envvar="TICKER_TOKEN", help="For a server that asks for one; better by TICKER_TOKEN.")
def tail(
    symbols: Sequence[str], url: str, interval_ms: int | None, fields: str | None, as_json: bool, token: str | None
) -> int:
    """Watch SYMBOLS (names or patterns): a live table in a terminal, NDJSON in a pipe."""
    from ticker.tail import tail as run_tail  # noqa: PLC0415 - a server has no use for a terminal's libraries

    names = fields.split(",") if fields else None
    try:
        field_set(names or ())
    except RequestError as error:
        raise click.UsageError(error.message) from None
    running = run_tail(url, symbols, token=token, interval_ms=interval_ms, fields=names, json=as_json, out=sys.stdout)
    return asyncio.run(running)


@cli.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, envvar="TICKER_URL", help="The server.")
@click.option("--token", envvar="TICKER_TOKEN", help="For a server that asks for one; better by TICKER_TOKEN.")
@click.option("--timeout-s", type=click.FloatRange(0.1, 3600), default=10, show_default=True, help="Time for a price.")
def check(url: str, token: str | None, timeout_s: float) -> int:
    """See whether a server serves: connect, and wait for a price."""
    from ticker.check import check as run_check  # noqa: PLC0415 - a server has no use for it

    return asyncio.run(run_check(url, token, timeout_s, sys.stdout, sys.stderr))


@cli.command()
@click.option("--feed", "specs", required=True, multiple=True, metavar="SPEC", help="Where ticks come from: one feed.")
@click.option(
    "--out", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where the parts go."
)
@click.option(
    "--part-mb", type=click.FloatRange(0.001, 100_000), default=128, show_default=True, help="Size that closes a part."
)
@click.option(
    "--part-s", type=click.FloatRange(0.1, 86_400), default=300, show_default=True, help="Time that closes a part."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@_with_settings("kafka_", "session_start", "warm_up")
def record(specs: Sequence[str], folder: Path, part_mb: float, part_s: float, log_level: str, **values: Any) -> int:
    """Record a feed into Parquet files, the parts, until it ends or is told to stop."""
    from feeds.recorder import MB, Limits, Recorder, RecordError  # noqa: PLC0415 - a server records nothing
    from ticker.record import record as run_record  # noqa: PLC0415

    set_up(log_level)
    symbols, clock = Symbols(), WallClock()
    if len(specs) > 1:
        raise click.UsageError(
            "expected one --feed: another one takes a recorder of its own, into the same folder or not"
        )
    feed = _open_feeds(specs, clock, _settings(values)[1], symbols)[0]
    limits = Limits(part_bytes=int(part_mb * MB), part_us=int(part_s * 1e6))
    try:
        recorder = Recorder(folder, symbols, feed.name, limits, clock.now)
        if isinstance(feed, Resumable):
            feed.go_on(recorder.held())
    except RecordError as error:
        raise click.UsageError(str(error)) from None
    return asyncio.run(run_record(feed, recorder))


def _parsed(parse: Callable[[str], Any], expected: str) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """What makes of an option's text what `parse` does; ValueError is the caller's mistake."""

    def callback(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError:
            raise click.BadParameter(f"expected {expected}, was {text!r}") from None

    return callback


def _speed(text: str) -> float | None:
    speed = None if text == "max" else float(text)
    if speed is not None and not 0 < speed < math.inf:
        raise ValueError
    return speed


def _speed_or_max(text: str) -> float | str:
    return _speed(text) or "max"


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--to", required=True, metavar="SPEC", help="The topic: kafka://HOST:PORT/TOPIC, with ?format=msgpack if not JSON."
)
@click.option(
    "--speed",
    default="max",
    show_default=True,
    callback=_parsed(_speed, "a number above 0, or max"),
    help="Multiple of real time, or max.",
)
@click.option("--loop", is_flag=True, help="Begin again at the end.")
@click.option("--start", callback=_parsed(time_us, TIME), help="Of the recording, leave out what is older.")
@click.option("--end", callback=_parsed(time_us, TIME), help="Of the recording, leave out this time and later.")
@click.option("--symbols", "patterns", metavar="KEYS", help="Keys or shell patterns, with commas between.")
@click.option(
    "--map",
    "renamed",
    callback=_parsed(fields_renamed, f"field:name pairs, fields being {', '.join(FIELDS)}"),
    help="Columns by name: price:px,ts_event:time.",
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many ticks.")
@click.option("--create", is_flag=True, help="Create the topic if it is not there.")
@click.option(
    "--partitions", type=click.IntRange(1, 10_000), default=3, show_default=True, help="Of the topic, if created."
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 1000),
    help="Of each partition, if created; the cluster's default if not given.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="zstd",
    show_default=True,
    help="Of batches of records.",
)
@click.option(
    "--patience-s",
    type=click.FloatRange(0.1, 86_400),
    default=30,
    show_default=True,
    help="How long a broker may acknowledge nothing.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@_with_settings("kafka_")
@click.pass_context
def produce(
    context: click.Context,
    /,
    files: Sequence[str],
    to: str,
    create: bool,
    partitions: int,
    replicas: int | None,
    count: int | None,
    compression: str,
    patience_s: float,
    log_level: str,
    **values: Any,
) -> int:
    """Write recordings into a Kafka topic, keyed by symbol.

    FILE is a file, a glob or a folder, as replay: takes them; several are one log, merged by time. Or it is one feed,
    such as 'sim:?rate=2000'.
    """
    from feeds.kafka.producer import DEFAULT_REPLICAS, Target  # noqa: PLC0415 - a server writes to no topic
    from ticker.produce import Creation, is_spec, open_files  # noqa: PLC0415
    from ticker.produce import produce as run_produce  # noqa: PLC0415

    set_up(log_level)
    symbols, clock = Symbols(), WallClock()
    how = {name: values.pop(name) for name in ("speed", "loop", "start", "end", "patterns", "renamed")}
    kafka = _settings(values)[1]
    try:
        target = Target(_destination(to), kafka.security)
        if any(map(is_spec, files)):
            given = {name for name in how if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
            if len(files) > 1 or given:
                raise click.UsageError("expected files, or one feed alone, whose options are in it: sim:?speed=max")
            feed = _open_feeds(files, clock, kafka, symbols)[0]
            if isinstance(feed, Resumable):
                feed.go_on({})  # what was produced cannot be taken back
        else:
            feed = open_files(files, symbols, clock, **how)
    except FeedError as error:
        raise click.UsageError(str(error)) from None
    creation = Creation(partitions, replicas or DEFAULT_REPLICAS) if create else None
    running = run_produce(
        feed, symbols, target, creation=creation, count=count, compression=compression, patience_s=patience_s
    )
    return asyncio.run(running)


def _destination(text: str) -> Address:
    """The topic to write to. Raises FeedError."""
    spec = Spec(text)
    if spec.scheme != "kafka":
        raise spec.error("expected a topic to write to, as in kafka://HOST:PORT/TOPIC")
    return destination(spec)


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--speed",
    callback=_parsed(_speed_or_max, "a number above 0, or max"),
    help="Multiple of real time, or max; 1 in a terminal and else max where not given.",
)
@click.option("--from", "start", help=f"Leave out what is older: {TIME}.")
@click.option("--to", "end", help="Leave out this time and later.")
@click.option("--symbols", metavar="KEYS", help="Keys or shell patterns, with commas between.")
@click.option(
    "--interval", default="1s", show_default=True, help="Time between rounds: 250ms, 1s, 1m; 0ms for each time."
)
@click.option("--fields", help="Fields to show, with commas between; all where not given.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a Parquet file.")
def replay(
    files: Sequence[str],
    speed: float | str | None,
    start: str | None,
    end: str | None,
    symbols: str | None,
    interval: str,
    fields: str | None,
    out: Path | None,
) -> int:
    """Play recordings: to the terminal, as NDJSON into a pipe, or into a file.

    FILE is a file, a glob or a folder; several are one log, merged by time.
    """
    from ticker.play import play  # noqa: PLC0415 - a server has no use for a terminal's libraries
    from ticker.run import replay as open_run  # noqa: PLC0415

    if speed is None:
        speed = 1.0 if out is None and sys.stdout.isatty() else "max"
    try:
        run = open_run(
            files,
            speed=speed,
            interval=interval,
            start=start,
            end=end,
            symbols=symbols,
            fields=fields.split(",") if fields else None,
        )
    except (ValueError, FeedError) as error:
        raise click.UsageError(str(error)) from None
    return play(run, out, sys.stdout)


@cli.command()
@click.argument("path")
@_with_settings("session_start", "bars_delay_ms")
def index(path: str, **values: Any) -> int:
    """Index a recording, so that a replay of it can begin anywhere at once.

    PATH is a file or a folder, as --source takes them; the index lies beside it. The settings are to be those of the
    server that is to use it.
    """
    from rich.progress import Progress  # noqa: PLC0415 - a server has no use for it

    from ticker.index import beside, build  # noqa: PLC0415

    try:
        settings = Settings(**values)
        files, out = find_files(path), beside(path)
        if out is None:
            raise click.UsageError(f"expected a file or a folder, was {path!r}")
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("indexing", total=None)
            count = build(files, out, settings, lambda rows: progress.update(task, description=f"{rows:,} rows"))
    except (ValueError, FeedError) as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{error.filename or path}: {error.strerror or error}") from None
    click.echo(f"{out}: {count} checkpoints")
    return 0


# -- API keys ------------------------------------------------------------------------------------------------------


@cli.group()
def keys() -> None:
    """API keys: who may see what. A server takes a change in within a second."""


_KEYS_FILE: Final = click.option(
    "--file",
    "path",
    required=True,
    envvar=variable(next(setting for setting in fields(Settings) if setting.name == "api_keys_file")),
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of keys.",
)


@keys.command("add")
@_KEYS_FILE
@click.option("--subject", required=True, help="Whose key it is.")
@click.option("--symbols", required=True, metavar="KEYS", help="Keys or shell patterns, with commas between.")
@click.option(
    "--delay-minutes", required=True, type=click.FloatRange(0, 100_000), help="How late the data is; 0 for real time."
)
@click.option("--channels", default=",".join(CHANNELS), show_default=True, help="With commas between.")
@click.option("--symbols-max", type=click.IntRange(1), help="Symbols on each channel; the server's where not given.")
@click.option("--interval-ms-min", type=click.IntRange(0, 60_000), default=0, help="The fastest pace.")
@click.option("--connections-max", type=click.IntRange(1), help="Connections at once; the server's where not given.")
@click.option("--replay", is_flag=True, help="Recordings as well.")
@click.option("--stats", is_flag=True, help="Who else watches, and the metrics, as well.")
@click.option(
    "--days", type=click.FloatRange(0, 36_500, min_open=True), help="How long it lasts; for ever if not given."
)
def keys_add(path: Path, subject: str, symbols: str, channels: str, days: float | None, **values: Any) -> int:
    """Make a key, and print it: it is kept nowhere and cannot be shown again."""
    from ticker.keys import add  # noqa: PLC0415 - a server changes no keys

    now = WallClock().now()
    body = {"symbols": symbols.split(","), "channels": channels.split(","), **values}
    try:
        rights = rights_of({name: value for name, value in body.items() if value is not None}, "the grant")
        token = add(path, subject, rights, now, None if days is None else now + int(days * 86_400e6))
    except (ValueError, OSError) as error:
        raise _mistake(path, error) from None
    click.echo(token)
    return 0


@keys.command("list")
@_KEYS_FILE
def keys_list(path: Path) -> int:
    """Show the keys, and what each grants."""
    from ticker.keys import show  # noqa: PLC0415

    try:
        console = Console()
        console.width = console.width if console.is_terminal else LINE_MAX
        show(path, WallClock().now(), console)
    except (ValueError, OSError) as error:
        raise _mistake(path, error) from None
    return 0


@keys.command("revoke")
@_KEYS_FILE
@click.argument("id")
def keys_revoke(path: Path, id: str) -> int:
    """Let the key ID count no more: its sessions are closed."""
    from ticker.keys import revoke  # noqa: PLC0415

    try:
        revoke(path, id, WallClock().now())
    except (ValueError, OSError) as error:
        raise _mistake(path, error) from None
    return 0


def _mistake(path: Path, error: ValueError | OSError) -> click.UsageError:
    return click.UsageError(f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error))


# -- serving -------------------------------------------------------------------------------------------------------


def _listen(settings: Settings) -> socket.socket:
    """The listening socket. What is set here, each connection inherits."""
    listener = _bind(settings.host, settings.port)
    if settings.socket_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.socket_buffer_bytes)
    if sys.platform == "linux":  # a peer that takes nothing for so long is dead, whatever waits for it to be sent
        dead_ms = int(1000 * (settings.ping_interval_s + settings.ping_timeout_s))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_ms)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        code = error.errno or 0  # below 0: the name of the host could not be looked up
        cause = os.strerror(code) if code > 0 else str(error.strerror).partition(" (while")[0]
        raise click.UsageError(f"cannot listen on {host} port {port}: {cause}") from None


def _allow_descriptors(settings: Settings) -> None:
    """Let the process open as many files as it takes clients, as far as the system lets it."""
    wanted = settings.connections_max + DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
        if allowed < wanted:
            log.warning("the limit of open files is %d: fewer clients than connections_max allows", allowed)


def _credentials(settings: Settings) -> Credentials:
    """The keys that settings name. Raises UsageError."""
    try:
        return Credentials(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _warn_if_open(settings: Settings, credentials: Credentials) -> None:
    """Say who can see everything, where that is not this machine alone."""
    if not credentials.access.required and not _is_loopback(settings.host):
        log.warning(
            "anybody who can reach %s port %d sees everything: neither jwt_keys_file nor api_keys_file is set",
            settings.host,
            settings.port,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_feeds(
    specs: Sequence[str], clock: WallClock, kafka: Setup, symbols: Symbols, lateness: Lateness = ON_TIME
) -> list[Feed]:
    """The feeds of `specs`, named by their schemes: `replay`, `replay-2`, and so on; `replay~900s` of those that are late."""
    count: Counter[str] = Counter()
    feeds = []
    for spec in specs:
        try:
            name = spec.partition(":")[0]
            count[name] += 1
            own = _nth(name, count[name]) + lateness.suffix
            feeds.append(open_feed(spec, symbols, name=own, clock=clock, kafka=kafka, lateness=lateness))
        except FeedError as error:
            raise click.UsageError(str(error)) from None
    return feeds


def _topics(specs: Sequence[str], kafka: Setup) -> dict[str, OpenLog]:
    """What opens the topics of each feed from a time on: `kafka:TOPIC`, of the second feed `kafka-2:TOPIC`, and so on."""
    addresses = [address(spec) for text in specs if (spec := Spec(text)).scheme == "kafka"]
    return {
        f"{_nth('kafka', number)}:{','.join(found.topics)}": partial(open_topic, found, kafka)
        for number, found in enumerate(addresses, 1)
    }


def _nth(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _open_sources(
    texts: Sequence[str], settings: Settings, clock: WallClock, topics: Mapping[str, OpenLog], counts: Counts
) -> Replays | None:
    """What clients may replay, by name; None where there is nothing. Raises UsageError."""
    paths: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not SOURCE_NAME.fullmatch(name):
            raise click.UsageError(f"--source: expected NAME=PATH, the name of letters, digits and ._-, was {text!r}")
        if name in paths:
            raise click.UsageError(f"--source: expected each name once, was {name!r} twice")
        paths[name] = path
    try:
        return Replays(settings, paths, clock, topics, counts) if paths or topics else None
    except FeedError as error:
        raise click.UsageError(f"--source: {error}") from None


def _invite(listener: socket.socket, symbols: Symbols) -> None:
    """Say where the service is, and a line to paste that shows prices."""
    host, port = listener.getsockname()[:2]
    url = f"http://{'127.0.0.1' if host in ANY_ADDRESS else f'[{host}]' if ':' in host else host}:{port}"
    some = " ".join(symbols.names[:5]) or "'*'"
    click.echo(f"ticker serves {url}/\nwatch prices: {_program()} tail {some} --url {url}")


def _program() -> str:
    """What to type to run this program again."""
    program = sys.argv[0]
    if program.endswith("__main__.py"):
        return f"{sys.executable} -m ticker"
    return "ticker" if shutil.which("ticker") == program else program


def _run(
    tiers: Tiers,
    replays: Replays | None,
    credentials: Credentials,
    listener: socket.socket,
    internal: socket.socket | None,
) -> int:
    """Serve until told to stop; 0 then. `internal` is the socket for what is for the operator alone, where it is apart."""
    settings = tiers.live.settings
    app = create_app(tiers, replays, credentials)
    outer, flush = _traced(app, settings)
    config = uvicorn.Config(
        outer,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws=partial(  # type: ignore[arg-type]
            StreamProtocol, frames_per_s_max=settings.frames_per_s_max, counts=tiers.live.hub.counts
        ),
        http=partial(  # type: ignore[arg-type]
            HeadProtocol,
            waiting=Waiting(settings.connections_max + SOCKETS_SPARE),
            header_s_max=settings.header_s_max,
        ),
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        ws_max_size=settings.message_bytes_max,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_interval_s,
        ws_ping_timeout=settings.ping_timeout_s,
        timeout_graceful_shutdown=settings.shutdown_s_max,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
    )
    # What is loaded by now stays; and a wave of new clients shall not have the whole heap searched again and again.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    apart = None
    if internal is not None:
        about = {"lifespan": "off", "access_log": False, "log_config": None, "server_header": False}
        apart = InternalServer(uvicorn.Config(create_internal_app(app), **about), internal)  # type: ignore[arg-type]
    server = Server(config, partial(send_away, app), partial(stop, app), apart)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.before_and_after)
    _invite(listener, tiers.live.table.symbols)
    server.run(sockets=[listener])
    flush()
    return 1 if tiers.live.failed else 0


def _traced(app: Starlette, settings: Settings) -> tuple[ASGIApp, Callable[[], None]]:
    """`app`, traced where that is asked for, and what is to be done once all is over. Raises UsageError."""
    if not settings.otel_endpoint:
        return app, lambda: None
    try:
        return traced(app, settings.otel_endpoint)
    except ModuleNotFoundError as error:
        missing = f"otel_endpoint: expected the libraries of traces, without {error.name}: pip install 'ticker[otel]'"
        raise click.UsageError(missing) from None


class InternalServer(uvicorn.Server):
    """The server of what is for the operator alone: it runs beside another one, which looks after signals."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener

    async def listen(self) -> None:
        """Serve until cancelled."""
        log.info("metrics and health on port %d", self._listener.getsockname()[1])
        await self.serve([self._listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None is caught here."""
        yield


class Server(uvicorn.Server):
    """uvicorn's server, which sends the clients away before it closes on them, and waits for none that does not read."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[], Coroutine[Any, Any, None]],
        stop: Callable[[], None],
        internal: InternalServer | None = None,
    ) -> None:
        """`drain` sends the clients away in their time, `stop` tells those that are left; `internal` runs as long."""
        super().__init__(config)
        self._internal = internal
        self._drain = drain
        self._stop = stop
        #: When the last signal came.
        self._told: float | None = None
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = False

    def before_and_after(self, *_: object) -> None:
        """A signal that uvicorn does not catch: one before it serves, or those that it raises anew once it has stopped."""
        if not self._begun:
            raise SystemExit(0)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._begun = True
        self._loop = asyncio.get_running_loop()
        internal = asyncio.create_task(self._internal.listen(), name="internal") if self._internal else None
        await super().serve(sockets)
        if internal:
            internal.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: on SIGTERM once the clients have been sent away, or another signal comes; at once on one more."""
        now = time.monotonic()
        if self._told is not None and now - self._told <= SIGNAL_S_MIN:
            return
        assert self._loop is not None
        if self.should_exit:
            os._exit(128 + sig)
        elif self._told is None and sig == signal.SIGTERM and self.started:
            self._loop.call_soon_threadsafe(self._begin_draining)
        else:  # whoever is left is told at once
            if self._draining is not None:
                self._loop.call_soon_threadsafe(self._draining.cancel)
            super().handle_exit(sig, frame)
        self._told = now

    def _begin_draining(self) -> None:
        self._draining = asyncio.create_task(self._drain(), name="draining")
        self._draining.add_done_callback(self._drained)

    def _drained(self, draining: asyncio.Task[None]) -> None:
        if draining.cancelled():
            return
        if failure := draining.exception():
            log.error("clients could not be sent away one after another", exc_info=failure)
        super().handle_exit(signal.SIGTERM, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        asyncio.get_running_loop().call_later(CUT_OFF_S, self._cut_off)
        await asyncio.sleep(0)
        await super().shutdown(sockets)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()
