"""`ticker keys`: the file of API keys, changed one step at a time. A key is shown once, when it is made."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from ticker.access import ApiKey, ApiKeys, KeyFileError, Rights, new_api_key

US: Final = 1_000_000
MODE: Final = 0o640


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(path: Path) -> ApiKeys:
    """The keys in a file. Raises KeyFileError with its name, OSError."""
    try:
        return ApiKeys.parse(path.read_text("utf-8"))
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: expected text in UTF-8") from None


def add(path: Path, subject: str, rights: Rights, now: int, expires: int | None = None) -> str:
    """Make a key, and the file where there is none; returns the token. Raises KeyFileError, OSError."""
    with _alone(path):
        keys = read(path) if path.exists() else ApiKeys(())
        token, key = new_api_key(subject, rights, now, expires)
        _write(path, ApiKeys((*keys.all.values(), key)))
    return token


def revoke(path: Path, id: str, now: int) -> None:
    """Let a key count no more. Raises KeyFileError where there is none of that id, OSError."""
    with _alone(path):
        keys = read(path)
        if id not in keys.all:
            raise KeyFileError(f"{path}: expected the id of a key in it, was {id[:40]!r}")
        _write(path, keys.revoke(id, now))


def _write(path: Path, keys: ApiKeys) -> None:
    """Put a whole file in the place of the old one, so that nobody ever reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(keys.format())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else MODE)  # noqa: PTH101 - a name, not yet a file of ours
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        os.unlink(name)  # noqa: PTH108
        raise


def show(path: Path, now: int, console: Console) -> None:
    """Print the keys, and what each grants. Raises KeyFileError, OSError."""
    table = Table(box=None, pad_edge=False)
    for head in ("id", "subject", "state", "made", "ends", "grants"):
        table.add_column(head, overflow="fold")
    for key in read(path).all.values():
        ends = "never" if key.expires is None else _day(key.expires)
        table.add_row(key.id, key.subject, state(key, now), _day(key.created), ends, told(key.rights))
    console.print(table)


def state(key: ApiKey, now: int) -> str:
    """Whether a key counts, in a word."""
    if key.revoked is not None:
        return "revoked"
    return "expired" if key.expires is not None and now >= key.expires else "good"


def told(rights: Rights) -> str:
    """What is granted, on one line."""
    parts = [",".join(rights.symbols), "/".join(rights.channels)]
    parts.append(f"{rights.delay_minutes:g} min late" if rights.delay_minutes else "real time")
    parts += [
        f"{what} {value}"
        for what, value in (
            ("symbols_max", rights.symbols_max),
            ("interval_ms_min", rights.interval_ms_min),
            ("connections_max", rights.connections_max),
        )
        if value
    ]
    return "; ".join([*parts, *(name for name in ("replay", "stats") if getattr(rights, name))])


def _day(time: int) -> str:
    return datetime.fromtimestamp(time / US, UTC).strftime("%Y-%m-%d %H:%M")
