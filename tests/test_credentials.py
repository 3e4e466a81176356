"""The key files: read at the start and whenever they change; what is bad never takes the place of what was good."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.tokens import AUDIENCE, ISSUER, jwks, token
from ticker import credentials
from ticker.access import EVERYTHING, Access, KeyFileError
from ticker.credentials import Credentials
from ticker.errors import RequestError
from ticker.keys import add, read, revoke
from ticker.settings import Settings

NOW = 1_800_000_000_000_000
LATER = 4_000_000_000


def jwt_settings(path: Path) -> Settings:
    return Settings(jwt_keys_file=str(path), jwt_audience=AUDIENCE, jwt_issuer=ISSUER)


def good(held: Credentials, kid: str) -> bool:
    try:
        held.check(token(kid, LATER), NOW)
    except RequestError:
        return False
    return True


def test_without_files_no_token_is_asked_for() -> None:
    assert not Credentials(Settings()).access.required


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"jwt_keys_file": "x"}, "jwt_audience: expected what every token names, because jwt_keys_file is given"),
        ({"jwt_keys_file": "x", "jwt_audience": "a"}, "jwt_issuer: expected what every token names"),
        ({"jwt_issuer": "x"}, "jwt_keys_file: expected the keys of tokens, because other settings"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Credentials(Settings(**settings))


def test_a_file_that_cannot_be_used_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(KeyFileError, match=r"keys\.json: No such file or directory$"):
        Credentials(jwt_settings(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match=r"keys\.json: expected text in UTF-8$"):
        Credentials(jwt_settings(path))
    path.write_text('{"keys":[')
    with pytest.raises(KeyFileError, match=r"keys\.json: expected a JWKS or a PEM key"):
        Credentials(Settings(jwt_keys_file=str(path), jwt_audience="a", jwt_issuer="i"))
    with pytest.raises(KeyFileError, match=r"keys\.json: expected the JSON that `ticker keys` writes"):
        Credentials(Settings(api_keys_file=str(path)))
    with pytest.raises(KeyFileError, match="Is a directory"):
        Credentials(Settings(api_keys_file=str(tmp_path)))


async def test_a_file_that_changes_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", 0.01)
    caplog.set_level(logging.INFO)
    # As a mounted Secret changes: by a link to another folder that takes the place of the one before.
    for name, text in (
        ("first", jwks("ec")),
        ("half", jwks("ec", "rsa")[:300]),
        ("second", jwks("rsa")),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.json").write_text(text)
    link = tmp_path / "data"
    link.symlink_to("first")

    def turn_to(name: str) -> None:
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").replace(link)

    held, news = Credentials(jwt_settings(link / "keys.json")), asyncio.Queue[Access]()
    (file,) = held.files
    watching = asyncio.create_task(held.watch(news.put_nowait))

    async def until_valid(valid: bool) -> None:
        while file.valid is not valid:
            await asyncio.sleep(0.005)

    try:
        async with asyncio.timeout(20):
            assert good(held, "ec")
            turn_to("half")
            await until_valid(False)
            assert good(held, "ec")
            link.unlink()
            await asyncio.sleep(0.1)
            assert good(held, "ec")
            turn_to("second")
            access = await news.get()
            assert access is held.access
            assert file.valid
            assert (good(held, "ec"), good(held, "rsa")) == (False, True)
            assert news.empty()
    finally:
        watching.cancel()
    said = [record.getMessage() for record in caplog.records if record.name == "ticker.credentials"]
    assert [text.partition(": ")[0] for text in said] == ["keys stay as they were"] * 2 + ["keys read"]
    assert "expected a JWKS" in said[0]
    assert said[1].endswith("No such file or directory")


def test_keys_are_added_and_revoked_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    shown = add(path, "desk-7", EVERYTHING, NOW)
    path.chmod(0o600)
    add(path, "desk-8", EVERYTHING, NOW)
    held = Credentials(Settings(api_keys_file=str(path)))
    grant = held.check(shown, NOW)
    assert grant.subject == "desk-7"
    revoke(path, grant.key.removeprefix("api:"), NOW)
    assert path.stat().st_mode & 0o777 == 0o600, "what an operator has set stays"
    assert [key.revoked for key in read(path).all.values()] == [NOW, None]
    assert not Credentials(Settings(api_keys_file=str(path))).access.holds(grant)
    with pytest.raises(KeyFileError, match="expected the id of a key in it, was 'none'"):
        revoke(path, "none", NOW)
    assert sorted(found.name for found in tmp_path.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_file_that_is_no_file_of_keys_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"precious": 1}))
    with pytest.raises(KeyFileError, match=r"keys\.json: Object contains unknown field `precious`"):
        add(path, "desk-7", EVERYTHING, NOW)
    assert json.loads(path.read_text()) == {"precious": 1}
