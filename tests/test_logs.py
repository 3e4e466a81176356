"""The log: lines that nobody can forge, fields that machines read, and no kind of line that buries the others."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import serving
from ticker.logs import KINDS_MAX, Handler, JsonFormatter, Limiter, TextFormatter

INF = float("inf")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.getLogger("ticker.tests.logs")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    handler = Handler(stream, Limiter(20))
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


# -- how often -----------------------------------------------------------------------------------------------------


def test_so_many_lines_of_a_kind_in_a_second_and_the_rest_are_counted() -> None:
    limiter = Limiter(3)
    assert [limiter.admits("a", 10.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert limiter.admits("b", 10.5), "another kind is another matter"
    assert limiter.unsaid(10.9) == []
    assert limiter.unsaid(11.0) == [("a", 2)]
    assert limiter.unsaid(12.0) == []
    assert limiter.admits("a", 12.0)


def test_what_was_left_out_is_not_forgotten_when_the_next_second_begins() -> None:
    limiter = Limiter(1)
    for now in (10.0, 10.1, 11.5, 11.6):
        limiter.admits("a", now)
    assert limiter.unsaid(INF) == [("a", 2)]


@given(times=st.lists(st.floats(0, 5), max_size=60))
def test_every_line_is_said_or_counted_once(times: list[float]) -> None:
    limiter, said, unsaid = Limiter(2), 0, 0
    for now in sorted(times):
        unsaid += sum(count for _, count in limiter.unsaid(now))
        said += limiter.admits("a", now)
    unsaid += sum(count for _, count in limiter.unsaid(INF))
    assert said + unsaid == len(times)
    assert said <= 2 * 7


def test_so_many_kinds_are_remembered() -> None:
    limiter = Limiter(1)
    for number in range(KINDS_MAX + 10):
        assert limiter.admits(str(number), 1.0)
    assert limiter.admits("0", 1.0), "the oldest is forgotten"
    assert not limiter.admits(str(KINDS_MAX), 1.0)


def test_a_flood_is_told_of_in_a_line(log: logging.Logger, stream: io.StringIO) -> None:
    handler = log.handlers[0]
    handler.setFormatter(TextFormatter())
    for number in range(500):
        log.info("refused %s", number)
    handler.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("... and 480 more like it: ticker.tests.logs: refused %s")


# -- text ----------------------------------------------------------------------------------------------------------


@given(text=st.text(max_size=60))
def test_nothing_that_came_from_outside_breaks_a_line(text: str) -> None:
    record = logging.LogRecord("ticker.x", logging.INFO, "", 0, "closing %s", (text,), None)
    line = TextFormatter().format(record)
    assert len(re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85]", line)) == 1
    assert "\x1b" not in line


def test_a_line_of_text(log: logging.Logger, stream: io.StringIO) -> None:
    log.handlers[0].setFormatter(TextFormatter())
    log.warning("a\nb\x1b[2J %s", "c\r", extra={"peer": "x"})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING ticker\.tests\.logs: a\\x0ab\\x1b\[2J c\\x0d\n",
        stream.getvalue(),
    )


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_a_line_of_json(log: logging.Logger, stream: io.StringIO) -> None:
    log.handlers[0].setFormatter(JsonFormatter())
    log.info("closing %s", "10.0.0.1\n", extra={"peer": "10.0.0.1", "code": 4408})
    try:
        int("why")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("ts")).utcoffset() is not None
    assert first == {
        "level": "info",
        "logger": "ticker.tests.logs",
        "event": "closing 10.0.0.1\n",
        "peer": "10.0.0.1",
        "code": 4408,
    }
    assert second["level"] == "error"
    assert second["traceback"].endswith("ValueError: invalid literal for int() with base 10: 'why'")


def test_a_server_logs_lines_of_json() -> None:
    flags = ["--log-format", "json", "--log-level", "debug", "--first-message-s-max", "0.2", "--origins", "https://a.b"]
    with serving("sim:?symbols=2", flags=flags) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = "GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        for more in ("", "Origin: https://evil\r\n"):
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(f"{head}{more}\r\n".encode())
                while raw.recv(4096):
                    pass
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log]
    assert {"ts", "level", "logger", "event"} <= set.intersection(*map(set, lines))
    by_event = {line["event"].split(" ")[0]: line for line in lines}
    assert (by_event["feed"]["feed"], by_event["feed"]["state"]) == ("sim", "live")
    assert (by_event["refused"]["reason"], by_event["refused"]["status"]) == ("origin", 403)
    assert (by_event["closing"]["code"], by_event["closing"]["reason"]) == (4408, "too slow")
