"""What the documents show is true: their programs run, their messages are those of a real server."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.sync.client import connect

from tests.servers import Server, environment, serving
from tests.test_replays import day
from ticker.access import Rights, rights_of
from ticker.errors import Close, Code
from ticker.keys import read
from ticker.protocol import COMMANDS, Subscribe, parse
from ticker.quotes import FIELDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REPLAY = (ROOT / "docs" / "replay.md").read_text()
CLIENT = (ROOT / "docs" / "client.md").read_text()
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def lines(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for block in blocks(text, "json") for line in block.splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("sim:?symbols=20&rate=2000&seed=1") as server:
        yield server


@pytest.mark.parametrize("program", blocks(README + CLIENT + REPLAY, "python"))
def test_a_program_shown_runs(program: str, server: Server, tmp_path: Path) -> None:
    day(tmp_path / "day.csv", 1000)
    here = program.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
    command = [sys.executable, "-c", here]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=environment(), check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_commands_shown_are_commands() -> None:
    for text in (README, PROTOCOL):
        shown = [message for message in lines(text) if "op" in message]
        assert shown
        for message in shown:
            assert isinstance(parse(orjson.dumps(message)), Subscribe)


def test_the_messages_shown_have_the_members_of_real_ones_in_their_order(server: Server) -> None:
    shown = {message["type"]: message for message in lines(PROTOCOL) if "type" in message}
    with connect(server.stream, compression=None) as client:

        def ask(command: dict[str, Any], *types: str) -> None:
            client.send(orjson.dumps(command).decode())
            for expected in types:
                while (message := orjson.loads(client.recv()))["type"] != expected:
                    pass
                assert list(message) == list(shown[expected]), f"{expected} is shown with other members"
                for item in message.get("items", ()):
                    example = shown[expected]["items"][0]
                    assert [name for name in example if name in item] == [name for name in item if name in example]

        ask({"op": "ping", "id": 1}, "welcome", "pong")
        ask({"op": "subscribe", "id": 2, "symbols": ["SIM001"]}, "subscribed", "snapshot", "update", "heartbeat")
        ask({"op": "subscribe", "channel": "trades", "symbols": ["*"]}, "trades")
        ask({"op": "subscribe", "channel": "bars", "interval": "1m", "symbols": ["*"]}, "bars")
        ask({"op": "unsubscribe", "id": 3, "symbols": ["SIM001"]}, "unsubscribed")
        ask({"op": "subscribe", "id": 2, "symbols": ["A"], "interval_ms": -5}, "error")
    answers = {name for name in shown if name not in {"status", "slow", "epoch", "shutdown", "gap"}}
    assert answers == {
        *("welcome", "pong", "subscribed", "snapshot", "update", "heartbeat", "unsubscribed", "error"),
        *("trades", "bars"),
    }


def test_every_op_field_code_and_ending_is_in_the_reference() -> None:
    for word in (*COMMANDS, *FIELDS, *Code):
        assert f"`{word}`" in PROTOCOL, word
    for close in Close:
        assert f"| {close.code} |" in PROTOCOL, close


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


# -- access --------------------------------------------------------------------------------------------------------


def test_the_commands_for_keys_do_what_is_shown(tmp_path: Path) -> None:
    commands = [line for block in blocks(DEPLOY, "sh") for line in block.splitlines() if line.startswith("ticker keys")]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        if "revoke" in words:
            words[-1] = next(iter(read(tmp_path / "keys.json").all))
        program = [sys.executable, "-m", *words]
        subprocess.run(program, check=True, cwd=tmp_path, capture_output=True, timeout=30, env=environment())
    (held,) = read(tmp_path / "keys.json").all.values()
    assert held.rights == Rights(("binance-spot:*", "AAPL"), 0, ("ticker", "trades"))
    assert held.revoked is not None


def test_what_a_token_is_shown_to_grant_is_a_grant() -> None:
    (shown,) = [block for block in blocks(DEPLOY, "") if '"ticker":' in block]
    claims = orjson.loads(shown)
    assert {"exp", "aud", "iss", "sub"} < claims.keys()
    assert rights_of(claims["ticker"], "ticker").connections_max == 4
    section = DEPLOY[DEPLOY.index(shown) : DEPLOY.index("**Rotation**")]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        *("symbols", "delay_minutes", "channels", "symbols_max", "interval_ms_min", "connections_max"),
        *("replay", "stats"),
    ]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(Rights.__struct_fields__)
