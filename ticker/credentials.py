"""The key files: read at the start, and anew whenever they change. The last good content counts until a better one is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ticker.access import Access, ApiKeys, Expected, Grant, JwtKeys, KeyFileError
from ticker.settings import Settings

log: Final = logging.getLogger(__name__)

#: Time between looks at the files.
LOOK_S: Final = 1.0
FILE_BYTES_MAX: Final = 1 << 24

#: What tells one content of a file from another without reading it; None where it cannot be had.
Mark = tuple[int, int, int] | None


@dataclass(slots=True)
class KeyFile:
    """One file of keys, and how it is taken in."""

    #: `jwt` or `api`.
    name: str
    path: Path
    take: Callable[[Access, str], Access]
    #: Whether its newest content is good.
    valid: bool = True
    mark: Mark = field(init=False, default=None)
    _told: str = ""

    def changed(self) -> bool:
        """Whether it is another one than was read last. A mounted Secret changes by the file that a link leads to."""
        mark, self.mark = self.mark, _mark(self.path)
        return mark != self.mark

    def read(self, access: Access) -> Access:
        """`access` with the keys of this file. Raises KeyFileError, with the file's name."""
        try:
            with self.path.open(encoding="utf-8") as file:
                text = file.read(FILE_BYTES_MAX)
            return self.take(access, text)
        except OSError as error:
            raise KeyFileError(f"{self.path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise KeyFileError(f"{self.path}: expected text in UTF-8") from None
        except KeyFileError as error:
            raise KeyFileError(f"{self.path}: {error}") from None

    def tell(self, failure: KeyFileError | None) -> None:
        """Note how a reading went, and say it once."""
        self.valid, told = failure is None, str(failure or "")
        if told and told != self._told:
            log.error("keys stay as they were: %s", told, extra={"file": self.name})
        elif not told:
            log.info("keys read: %s", self.path, extra={"file": self.name})
        self._told = told


def _mark(path: Path) -> Mark:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Credentials:
    """The key files of a process, and what they come to."""

    def __init__(self, settings: Settings) -> None:
        """Read the files that `settings` name. Raises KeyFileError where one cannot be used, ValueError for settings."""
        self.files: list[KeyFile] = []
        self.access = Access()
        if settings.jwt_keys_file:
            for name in ("jwt_audience", "jwt_issuer"):
                if not getattr(settings, name):
                    raise ValueError(f"{name}: expected what every token names, because jwt_keys_file is given")
            expected = Expected(settings.jwt_audience, settings.jwt_issuer, int(settings.jwt_leeway_s * 1e6))

            def take_jwt(access: Access, text: str) -> Access:
                return access.with_jwt_keys(JwtKeys.parse(text, settings.jwt_algorithm, expected))

            self.files.append(KeyFile("jwt", Path(settings.jwt_keys_file), take_jwt))
        elif settings.jwt_audience or settings.jwt_issuer or settings.jwt_algorithm:
            raise ValueError("jwt_keys_file: expected the keys of tokens, because other settings of them are given")
        if settings.api_keys_file:
            path = Path(settings.api_keys_file)
            self.files.append(KeyFile("api", path, lambda access, text: access.with_api_keys(ApiKeys.parse(text))))
        for file in self.files:
            file.changed()
            self.access = file.read(self.access)

    def check(self, token: str, now: int) -> Grant:
        """What `token` grants at the time `now`. Raises RequestError."""
        return self.access.check(token, now)

    async def watch(self, changed: Callable[[Access], None]) -> None:
        """Look at the files until cancelled, and hand on what they come to when that is something else."""
        while True:
            await asyncio.sleep(LOOK_S)
            for file in self.files:
                if await asyncio.to_thread(file.changed):
                    try:
                        self.access = await asyncio.to_thread(file.read, self.access)
                    except KeyFileError as failure:
                        file.tell(failure)
                    else:
                        file.tell(None)
                        changed(self.access)
