"""What an operator sets for every Kafka feed, as it comes from the settings: how to connect, how far back to read."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from feeds.feed import FeedError

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How to connect. Files are read at every connect, so that what is mounted anew counts without a restart.

    Raises ValueError, one line that names the setting and never holds a secret.
    """

    protocol: str = "PLAINTEXT"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"kafka_security_protocol: expected one of {', '.join(PROTOCOLS)}, was {self.protocol!r}")
        if self.mechanism not in MECHANISMS:
            raise ValueError(f"kafka_sasl_mechanism: expected one of {', '.join(MECHANISMS)}, was {self.mechanism!r}")
        if self.signs_in and not (self.username and self.password_file):
            raise ValueError(f"kafka_username and kafka_password_file: expected both with {self.protocol}")
        if not self.signs_in and (self.username or self.password_file):
            raise ValueError(
                f"kafka_security_protocol: expected SASL_PLAINTEXT or SASL_SSL with a user, was {self.protocol}"
            )
        if self.key_file and not self.cert_file:
            raise ValueError("kafka_cert_file: expected one with kafka_key_file, was none")
        if not self.encrypted and (self.ca_file or self.cert_file):
            raise ValueError(
                f"kafka_security_protocol: expected SSL or SASL_SSL with certificates, was {self.protocol}"
            )

    @property
    def encrypted(self) -> bool:
        return self.protocol.endswith("SSL")

    @property
    def signs_in(self) -> bool:
        return self.protocol.startswith("SASL")

    def options(self) -> dict[str, Any]:
        """Keyword arguments of aiokafka's clients. Raises FeedError where a file cannot be read."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.encrypted:
            options["ssl_context"] = self._context()
        if self.signs_in:
            options["sasl_mechanism"] = self.mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = _secret(self.password_file)
        return options

    def _context(self) -> ssl.SSLContext:
        for file in filter(None, (self.ca_file, self.cert_file, self.key_file)):
            _readable(file)
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2  # some builds leave it to the system
            if self.cert_file:
                # A key that wants a password must not have it asked for on a terminal.
                context.load_cert_chain(self.cert_file, self.key_file or None, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            files = ", ".join(filter(None, (self.ca_file, self.cert_file, self.key_file)))
            raise FeedError(f"{files}: expected certificates and a key in PEM ({_reason(error)})") from None
        return context


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or type(error).__name__


def _readable(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FeedError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FeedError(f"{file}: expected text, was bytes of another kind") from None


def _secret(file: str) -> str:
    text = _readable(file).rstrip("\r\n")
    if not text:
        raise FeedError(f"{file}: expected a password, was nothing")
    if not text.isprintable():
        raise FeedError(f"{file}: expected a password in one line")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all Kafka feeds of a process have in common."""

    security: Security = field(default_factory=Security)
    #: The time of day, in microseconds after midnight UTC, at which a trading session starts.
    session_start_us: int = 0
    #: How far back a feed that is told no start reads at most.
    warm_up_us: int = DAY_US
