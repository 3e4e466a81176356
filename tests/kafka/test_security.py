"""Signing in and encryption, at a real broker: what is right works, what is wrong is one clear line, and no secret is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.apache_kafka import PASSWORD, USER, Apache
from tests.brokers import MakeTopic
from tests.kafka.watching import FEED, Watch, quotes, said, served
from tests.servers import Server

WRONG = "guessed-wrongly"
NOTICED_S_MAX = 15.0
#: All that a broker says to who speaks another protocol than it does.
CLOSED = ("the connection was closed", "connection reset by peer", "broken pipe", "no TLS: wrong version number")


@pytest.fixture
def ticks(apache: Apache, apache_topic: MakeTopic) -> str:
    """A topic with a hundred quotes."""
    name = apache_topic(2)
    apache.produce(name, quotes(0, 100))
    return name


def spec(address: str, topic: str) -> str:
    return f"kafka://{address}/{topic}?start=earliest"


def signing_in(password_file: Path, mechanism: str, protocol: str = "SASL_PLAINTEXT") -> tuple[str, ...]:
    return (
        *("--kafka-security-protocol", protocol, "--kafka-sasl-mechanism", mechanism),
        *("--kafka-username", USER, "--kafka-password-file", str(password_file), "--log-level", "debug"),
    )


def encrypted(ca: Path | None, certificate: Path | None = None, key: Path | None = None) -> tuple[str, ...]:
    files = {"ca": ca, "cert": certificate, "key": key}
    given = [(f"--kafka-{name}-file", str(file)) for name, file in files.items() if file is not None]
    return "--kafka-security-protocol", "SSL", *(text for pair in given for text in pair)


def refused(server: Server, watch: Watch) -> str:
    """Why the feed is down, as the only line that was logged of it says."""
    watch.until_state("down", NOTICED_S_MAX)
    watch.until_said("cannot read")
    assert server.get("/livez").status_code == 200
    assert server.get("/readyz").status_code == 503
    [line] = said(server, "cannot read")
    return line.partition(": cannot read: ")[2]


def assert_untold(server: Server, *secrets: str) -> None:
    """Nothing that the server has logged or answers holds a secret."""
    told = "".join(server.log)
    for path in ("/readyz", "/metrics", "/v1/symbols", "/v1/snapshot?symbols=*"):
        answer = server.get(path)
        told += answer.text + str(answer.headers)
    assert FEED in told
    assert not [secret for secret in secrets if secret in told]


# -- signing in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [
        ("SASL_PLAINTEXT", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SASL_SSL", "SCRAM-SHA-512"),
    ],
)
def test_a_wrong_password_is_refused_and_the_right_one_counts_without_a_restart(
    apache: Apache, ticks: str, tmp_path: Path, protocol: str, mechanism: str
) -> None:
    mounted = tmp_path / "password"
    mounted.write_text(WRONG + "\n")
    flags = signing_in(mounted, mechanism, protocol)
    address = apache.sasl
    if protocol == "SASL_SSL":
        address, flags = apache.sasl_ssl, (*flags, "--kafka-ca-file", str(apache.certificates.ca))
    with served(spec(address, ticks), *flags, ready=False) as (server, watch):
        assert refused(server, watch).startswith(f"{address}: SaslAuthenticationFailed: Authentication failed")
        (tmp_path / "next").write_text(PASSWORD + "\n")
        (tmp_path / "next").replace(mounted)
        watch.until_ticks(100)
        assert server.get("/readyz").status_code == 200
        watch.until_said("reading again after")
        assert_untold(server, PASSWORD, WRONG)


def test_a_password_file_that_is_missing_for_a_while_is_waited_for(apache: Apache, ticks: str, tmp_path: Path) -> None:
    mounted = tmp_path / "password"
    mounted.write_text(WRONG)
    with served(spec(apache.sasl, ticks), *signing_in(mounted, "PLAIN"), ready=False) as (server, watch):
        refused(server, watch)
        for missing, cause in ((mounted.unlink, "No such file or directory"), (mounted.touch, "expected a password")):
            missing()
            watch.until_said(f"cannot read: {mounted}: {cause}")
        mounted.write_text(PASSWORD)
        watch.until_ticks(100)


# -- encryption ----------------------------------------------------------------------------------------------------


def test_tls_works_with_the_authority(apache: Apache, ticks: str) -> None:
    with served(spec(apache.ssl, ticks), *encrypted(apache.certificates.ca)) as (_, watch):
        watch.until_ticks(100)


def test_mutual_tls_works_with_a_certificate(apache: Apache, ticks: str) -> None:
    files = apache.certificates
    with served(spec(apache.mutual, ticks), *encrypted(files.ca, files.client, files.client_key)) as (_, watch):
        watch.until_ticks(100)


@pytest.mark.parametrize("authority", ["none", "another"])
def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    apache: Apache, ticks: str, tmp_path: Path, authority: str
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    flags = encrypted(other if authority == "another" else None)
    with served(spec(apache.ssl, ticks), *flags, ready=False) as (server, watch):
        assert refused(server, watch).startswith(f"{apache.ssl}: its certificate is not trusted: ")


def test_mutual_tls_refuses_who_has_no_certificate(apache: Apache, ticks: str) -> None:
    with served(spec(apache.mutual, ticks), *encrypted(apache.certificates.ca), ready=False) as (server, watch):
        assert refused(server, watch).startswith(f"{apache.mutual}: no TLS: ")


@pytest.mark.parametrize("listener", ["sasl", "ssl", "plain"])
def test_a_broker_that_speaks_another_protocol_is_told(apache: Apache, ticks: str, listener: str) -> None:
    address = {"sasl": apache.sasl, "ssl": apache.ssl, "plain": apache.bootstrap}[listener]
    flags = encrypted(apache.certificates.ca) if listener == "plain" else ()
    with served(spec(address, ticks), *flags, ready=False) as (server, watch):
        assert refused(server, watch) in {f"{address}: {what}" for what in CLOSED}
