"""The log: one line an event, as text or as JSON, and no kind of event so often that it buries the others."""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, TextIO

from pythonjsonlogger.orjson import OrjsonFormatter

#: Kinds of events that are remembered.
KINDS_MAX: Final = 500
#: What would break a line, or move the cursor of who reads it, is written as its code.
CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


@dataclass(slots=True)
class _Second:
    """One kind of event in one second."""

    began: float
    said: int = 0
    unsaid: int = 0


class Limiter:
    """Lets so many lines of a kind pass in a second, and counts the others. Pure: time is an argument, in seconds."""

    def __init__(self, lines_per_s_max: int) -> None:
        self._most = lines_per_s_max
        self._seconds: OrderedDict[str, _Second] = OrderedDict()

    def admits(self, kind: str, now: float) -> bool:
        """Whether another line of a kind may pass."""
        second = self._seconds.get(kind)
        if second is None or not 0 <= now - second.began < 1:
            second = self._seconds[kind] = _Second(now, unsaid=second.unsaid if second else 0)
        self._seconds.move_to_end(kind)
        while len(self._seconds) > KINDS_MAX:
            self._seconds.popitem(last=False)
        if second.said < self._most:
            second.said += 1
            return True
        second.unsaid += 1
        return False

    def unsaid(self, now: float) -> list[tuple[str, int]]:
        """The kinds of which lines were left out in a second that is over, and how many; each is told once."""
        found = []
        for kind, second in self._seconds.items():
            if second.unsaid and not 0 <= now - second.began < 1:
                found.append((kind, second.unsaid))
                second.unsaid = 0
        return found


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream, of each kind no more than `limiter` admits."""

    def __init__(self, stream: TextIO, limiter: Limiter) -> None:
        super().__init__(stream)
        self._limiter = limiter

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        for kind, count in self._limiter.unsaid(now):
            self._tell(kind, count)
        if self._limiter.admits(f"{record.name}: {record.msg}", now):
            super().emit(record)

    def close(self) -> None:
        for kind, count in self._limiter.unsaid(float("inf")):
            self._tell(kind, count)
        super().close()

    def _tell(self, kind: str, count: int) -> None:
        text = "... and %d more like it: %s"
        super().emit(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (count, kind), None))


class TextFormatter(logging.Formatter):
    """A line for people. What came from outside can neither break it nor look like another one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = record.message.translate(CONTROL)
        return super().formatMessage(record)


class JsonFormatter(OrjsonFormatter):
    """A line for machines: `ts`, `level`, `logger`, `event`, what else the event says, and a traceback as one text."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "message": "event", "exc_info": "traceback"},
            timestamp="ts",
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        log_data["level"] = log_data["level"].lower()
        return {"ts": log_data.pop("ts"), **log_data}


def set_up(level: str, form: str = "text", lines_per_s_max: int = 20, stream: TextIO | None = None) -> None:
    """Let this process log to `stream`, stderr where none is given: at `level` and above, as `text` or `json`."""
    handler = Handler(stream or sys.stderr, Limiter(lines_per_s_max))
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # below it, a line for each connection
    logging.getLogger("uvicorn.error").addFilter(_Quiet())


class _Quiet(logging.Filter):
    """Leaves out what a client can make uvicorn say, a line or a traceback at a time."""

    SAID: Final = ("Invalid UTF-8 sequence", "ASGI callable returned without completing handshake")

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.SAID)
