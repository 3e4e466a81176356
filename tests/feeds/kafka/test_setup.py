from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from feeds.feed import FeedError
from feeds.kafka.setup import DAY_US, MECHANISMS, PROTOCOLS, Security, Setup

SECRET = "hunter2"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pem(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """A certificate of who signs, and a client's certificate and key: `Security`'s own arguments."""
    client = authority.issue_cert("client.example")
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca_file", "cert_file", "key_file")}
    authority.cert_pem.write_to_path(paths["ca_file"])
    client.cert_chain_pems[0].write_to_path(paths["cert_file"])
    client.private_key_pem.write_to_path(paths["key_file"])
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    return path


def invalid(**how: str) -> str:
    with pytest.raises(ValueError, match="kafka_") as error:
        Security(**how)
    assert len(str(error.value).splitlines()) == 1
    assert SECRET not in str(error.value)
    return str(error.value)


def fails(security: Security) -> str:
    """Why no client can be made: one line that holds no secret."""
    with pytest.raises(FeedError) as error:
        security.options()
    assert len(str(error.value).splitlines()) == 1
    assert SECRET not in str(error.value)
    return str(error.value)


def signing_in(password_file: Path | str, protocol: str = "SASL_PLAINTEXT", **more: str) -> Security:
    return Security(protocol=protocol, username="reader", password_file=str(password_file), **more)


# -- what goes together --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"protocol": "TLS"},
            "kafka_security_protocol: expected one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL, was 'TLS'",
        ),
        ({"protocol": "ssl"}, "kafka_security_protocol: expected one of"),
        ({"protocol": ""}, "kafka_security_protocol: expected one of"),
        (
            {"mechanism": "GSSAPI"},
            "kafka_sasl_mechanism: expected one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, was 'GSSAPI'",
        ),
        ({"protocol": "SASL_SSL"}, "kafka_username and kafka_password_file: expected both with SASL_SSL"),
        (
            {"protocol": "SASL_SSL", "username": "u"},
            "kafka_username and kafka_password_file: expected both with SASL_SSL",
        ),
        (
            {"protocol": "SASL_PLAINTEXT", "password_file": "p"},
            "kafka_username and kafka_password_file: expected both with SASL_PLAINTEXT",
        ),
        (
            {"protocol": "SSL", "username": "u"},
            "kafka_security_protocol: expected SASL_PLAINTEXT or SASL_SSL with a user, was SSL",
        ),
        (
            {"username": "u", "password_file": "p"},
            "kafka_security_protocol: expected SASL_PLAINTEXT or SASL_SSL with a user, was PLAINTEXT",
        ),
        ({"protocol": "SSL", "key_file": "k"}, "kafka_cert_file: expected one with kafka_key_file, was none"),
        (
            {"ca_file": "c"},
            "kafka_security_protocol: expected SSL or SASL_SSL with certificates, was PLAINTEXT",
        ),
        (
            {"protocol": "SASL_PLAINTEXT", "username": "u", "password_file": "p", "cert_file": "c"},
            "kafka_security_protocol: expected SSL or SASL_SSL with certificates, was SASL_PLAINTEXT",
        ),
    ],
)
def test_a_bad_combination_names_the_setting(how: dict[str, str], said: str) -> None:
    assert invalid(**how).startswith(said)


def test_every_combination_is_either_refused_or_gives_what_it_says(pem: dict[str, str], password_file: Path) -> None:
    files = {**pem, "username": "reader", "password_file": str(password_file)}
    for protocol, mechanism, *given in product(PROTOCOLS, MECHANISMS, *((name, "") for name in files)):
        named = {name: files[name] for name in given if name}
        encrypted, signs_in = protocol.endswith("SSL"), protocol.startswith("SASL")
        users, certificates = {"username", "password_file"} & named.keys(), pem.keys() & named.keys()
        good = len(users) == (2 if signs_in else 0)
        good &= encrypted or not certificates
        good &= "key_file" not in named or "cert_file" in named
        if not good:
            invalid(protocol=protocol, mechanism=mechanism, **named)
            continue
        security = Security(protocol=protocol, mechanism=mechanism, **named)
        assert (security.encrypted, security.signs_in) == (encrypted, signs_in)
        if "cert_file" in named and "key_file" not in named:  # the key may stand in the same file, but not in this one
            assert named["cert_file"] in fails(security)
            continue
        options = security.options()
        assert options.pop("security_protocol") == protocol
        assert isinstance(options.pop("ssl_context", None), ssl.SSLContext) == encrypted
        expected = {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": "reader",
            "sasl_plain_password": SECRET,
        }
        assert options == (expected if signs_in else {})


def test_by_default_nothing_is_encrypted_and_a_day_is_read() -> None:
    setup = Setup()
    assert setup.security == Security()
    assert setup.security.options() == {"security_protocol": "PLAINTEXT"}
    assert (setup.session_start_us, setup.warm_up_us) == (0, DAY_US)
    assert DAY_US == 24 * 60 * 60 * 1_000_000


# -- passwords -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "password"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b" hunter 2 \n", " hunter 2 "),
        ("hünter2".encode(), "hünter2"),
    ],
)
def test_a_password_is_its_file_without_the_end_of_line(password_file: Path, written: bytes, password: str) -> None:
    password_file.write_bytes(written)
    assert signing_in(password_file).options()["sasl_plain_password"] == password


def test_a_password_that_is_mounted_anew_counts(password_file: Path) -> None:
    security = signing_in(password_file)
    assert security.options()["sasl_plain_password"] == SECRET
    password_file.write_text("correct horse\n")
    assert security.options()["sasl_plain_password"] == "correct horse"
    password_file.unlink()
    assert fails(security) == f"{password_file}: No such file or directory"
    password_file.write_text(SECRET)
    assert security.options()["sasl_plain_password"] == SECRET


def test_a_security_shows_no_password(password_file: Path) -> None:
    security = signing_in(password_file)
    security.options()
    for shown in (repr(security), str(security), repr(Setup(security=security))):
        assert SECRET not in shown
        assert str(password_file) in shown


Spoil = Callable[[Path], object]


def _missing(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _binary(path: Path) -> None:
    path.write_bytes(SECRET.encode() + b"\xff\xfe\x00")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (_missing, "No such file or directory"),
        (_a_folder, "Is a directory"),
        (_binary, "expected text, was bytes of another kind"),
        (_empty, "expected a password, was nothing"),
        (lambda path: path.write_text("\r\n\n"), "expected a password, was nothing"),
    ],
)
def test_a_password_file_that_holds_none_is_one_line(password_file: Path, spoil: Spoil, cause: str) -> None:
    spoil(password_file)
    assert fails(signing_in(password_file)) == f"{password_file}: {cause}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_password_file_that_may_not_be_read_is_one_line(password_file: Path) -> None:
    password_file.chmod(0)
    assert fails(signing_in(password_file)) == f"{password_file}: Permission denied"
    password_file.chmod(stat.S_IRUSR)


# -- certificates --------------------------------------------------------------------------------------------------


def context(**how: str) -> Any:
    return Security(protocol="SSL", **how).options()["ssl_context"]


def test_a_context_always_verifies_certificates_and_host_names(pem: dict[str, str]) -> None:
    for made in (context(), context(ca_file=pem["ca_file"]), context(**pem)):
        assert made.verify_mode is ssl.CERT_REQUIRED
        assert made.check_hostname
        assert made.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_whom_to_trust_is_who_the_file_names_and_nobody_else(pem: dict[str, str]) -> None:
    trusted = context(ca_file=pem["ca_file"]).get_ca_certs()
    (subject,) = (dict(part for (part,) in certificate["subject"]) for certificate in trusted)
    assert subject["organizationName"].startswith("trustme")


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """A client and a server shake hands, without a socket. Raises what either raises."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends
    # In TLS 1.3 a server's verdict on the client's certificate comes after the client's handshake.


def test_a_broker_is_believed_for_its_own_name_alone(pem: dict[str, str], authority: trustme.CA) -> None:
    broker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("broker.example").configure_cert(broker)
    authority.configure_trust(broker)
    broker.verify_mode = ssl.CERT_REQUIRED  # and so is the client
    handshake(context(**pem), broker, "broker.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context(**pem), broker, "other.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        handshake(context(cert_file=pem["cert_file"], key_file=pem["key_file"]), broker, "broker.example")


def test_a_certificate_that_is_mounted_anew_counts(pem: dict[str, str]) -> None:
    security = Security(protocol="SSL", ca_file=pem["ca_file"])
    before = security.options()["ssl_context"].get_ca_certs()
    trustme.CA().cert_pem.write_to_path(pem["ca_file"])
    assert security.options()["ssl_context"].get_ca_certs() != before


def test_a_certificate_and_its_key_may_stand_in_one_file(pem: dict[str, str], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(pem["cert_file"]).read_bytes() + Path(pem["key_file"]).read_bytes())
    context(ca_file=pem["ca_file"], cert_file=str(both))


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (_missing, "No such file or directory"),
        (_a_folder, "Is a directory"),
        (_binary, "expected text, was bytes of another kind"),
        (_empty, "expected certificates and a key in PEM"),
        (lambda path: path.write_text(SECRET), "expected certificates and a key in PEM"),
        (
            lambda path: path.write_text(f"-----BEGIN CERTIFICATE-----\n{SECRET}\n-----END CERTIFICATE-----\n"),
            "expected certificates and a key in PEM",
        ),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(pem: dict[str, str], name: str, spoil: Spoil, cause: str) -> None:
    spoil(Path(pem[name]))
    said = fails(Security(protocol="SSL", **pem))
    assert pem[name] in said
    assert cause in said


def test_a_key_of_another_certificate_is_one_line(pem: dict[str, str], authority: trustme.CA) -> None:
    authority.issue_cert("other.example").private_key_pem.write_to_path(pem["key_file"])
    said = fails(Security(protocol="SSL", **pem))
    assert pem["key_file"] in said
    assert "MISMATCH" in said


def test_a_key_with_a_password_fails_and_asks_nobody(pem: dict[str, str]) -> None:
    path = Path(pem["key_file"])
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(SECRET.encode())))
    said = fails(Security(protocol="SSL", **pem))
    assert pem["key_file"] in said
    assert "expected certificates and a key in PEM" in said
