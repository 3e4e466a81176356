"""Every setting and limit, declared once: its default, range, unit and sentence.

The flags of `ticker serve`, the environment variables and the table in the README are made from this declaration.
A flag beats the environment, the environment beats the default.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_network
from typing import Any, Final
from urllib.parse import urlsplit

#: What some settings may be.
CHOICES: Final = {"log_level": ("debug", "info", "warning", "error"), "log_format": ("text", "json")}
#: Different delays at most, and the longest of them.
DELAYS_MAX: Final = 4
DELAY_MS_MAX: Final = 1440 * 60_000


def _setting(default: Any, help: str, *, least: float | None = None, most: float | None = None) -> Any:
    """A number has both bounds, a text neither."""
    return field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can set. A number out of its range raises ValueError with the setting's name."""

    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on; 0 takes a free one", least=0, most=65535)
    session_start: str = _setting("00:00", "UTC time of day at which a symbol's trading session starts, HH:MM")
    interval_ms: int = _setting(100, "pace of a subscription that names none", least=0, most=60_000)
    heartbeat_ms: int = _setting(1000, "time between heartbeats to each client", least=50, most=60_000)
    stale_ms: int = _setting(5000, "a feed without a tick for this long is stale", least=100, most=3_600_000)
    connections_max: int = _setting(10_000, "clients at once; one more is answered 503", least=1, most=1_000_000)
    symbols_max: int = _setting(1000, "symbols a client may watch, patterns included", least=1, most=100_000)
    patterns_max: int = _setting(32, "patterns a client may hold", least=0, most=1000)
    lanes_max: int = _setting(8, "different pairs of interval and fields a client may hold", least=1, most=100)
    trades_max: int = _setting(500, "trades kept of each symbol, for who comes late or is slow", least=1, most=100_000)
    bars_max: int = _setting(500, "bars kept of each symbol and interval", least=1, most=100_000)
    bars_delay_ms: int = _setting(1000, "time after its end at which a bar closes", least=0, most=60_000)
    intervals_max: int = _setting(
        64,
        "different intervals served at once, besides 60,000 ms; past it a client is given the next slower",
        least=1,
        most=1000,
    )
    symbol_chars_max: int = _setting(64, "length of a symbol or pattern", least=1, most=64)
    message_bytes_max: int = _setting(
        262_144, "size of a client's message; a larger one closes it (1009)", least=1024, most=1 << 26
    )
    messages_per_s_max: int = _setting(
        100, "messages a second from a client, in bursts of twice that", least=1, most=1_000_000
    )
    frames_per_s_max: int = _setting(
        1000,
        "pings, pongs and fragments a second from a client, in bursts of twice that (4429)",
        least=1,
        most=1_000_000,
    )
    violations_max: int = _setting(
        20, "bad messages before a client is closed (4400); one a second is forgiven", least=1, most=1_000_000
    )
    first_message_s_max: float = _setting(30.0, "time a client has for its first message (4408)", least=0.05, most=3600)
    send_buffer_bytes_max: int = _setting(
        65_536, "bytes sent that a client may leave unread ...", least=0, most=1 << 30
    )
    send_buffer_s_max: float = _setting(15.0, "... for this long before it is closed (4408)", least=0.05, most=3600)
    socket_buffer_bytes: int = _setting(
        0, "size of each socket's send buffer in the kernel; 0 leaves it to the system", least=0, most=1 << 30
    )
    catch_up_s_max: float = _setting(10.0, "wait for a log position that a client is ahead by", least=0.05, most=3600)
    warm_up_s_max: int = _setting(
        86_400, "how far back a Kafka feed without a start reads at most, from now", least=0, most=30 * 86_400
    )
    kafka_security_protocol: str = _setting("PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    kafka_ca_file: str = _setting("", "certificates (PEM) of who signs the brokers'; none: those the system trusts")
    kafka_cert_file: str = _setting("", "client certificate (PEM), where the brokers ask for one")
    kafka_key_file: str = _setting("", "its key (PEM, without a password)")
    kafka_sasl_mechanism: str = _setting("SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    kafka_username: str = _setting("", "user to sign in as")
    kafka_password_file: str = _setting("", "file that holds the password; read anew at every connect")
    ping_interval_s: float = _setting(20.0, "time between WebSocket pings", least=0.05, most=3600)
    ping_timeout_s: float = _setting(20.0, "time for a pong before a peer is dead", least=0.05, most=3600)
    page_symbols_max: int = _setting(1000, "symbols on one page of /v1/symbols", least=1, most=100_000)
    long_poll_s_max: float = _setting(30.0, "longest wait of a long-poll", least=0.05, most=3600)
    replay_sessions_max: int = _setting(32, "replays at once; one more is answered 503", least=0, most=10_000)
    replay_checkpoint_bytes_max: int = _setting(
        64 << 20, "memory for the checkpoints that replays of the same data share", least=0, most=1 << 34
    )
    replay_stall_s_max: float = _setting(
        600.0, "time for which a replay's only client may take nothing (4408)", least=0.05, most=86_400
    )
    replay_linger_s_max: float = _setting(
        30.0, "time that a shared replay goes on without clients", least=0.0, most=86_400
    )
    jwt_keys_file: str = _setting("", "keys that sign tokens: a JWKS, each key with its alg and kid, or one key as PEM")
    jwt_algorithm: str = _setting("", "algorithm of the key, where it is PEM: RS256, ES256, EdDSA, ...")
    jwt_audience: str = _setting("", "aud that a token must name")
    jwt_issuer: str = _setting("", "iss that a token must name")
    jwt_leeway_s: float = _setting(10.0, "difference allowed between clocks, for exp and nbf", least=0, most=30)
    api_keys_file: str = _setting("", "API keys, as `ticker keys` writes them")
    auth_s_max: float = _setting(10.0, "time to send a token, where one is required (4401)", least=0.05, most=3600)
    delays: str = _setting("", "minutes that delayed data is served behind, with commas between: 15 or 15,60")
    origins: str = _setting(
        "", "origins of pages that may connect, with commas between; none: the server's own; *: any"
    )
    trusted_proxies: str = _setting("", "addresses or networks whose X-Forwarded-For and -Proto are believed")
    connections_per_address_max: int = _setting(
        10_000, "connections at once from one address (429)", least=1, most=1_000_000
    )
    connections_per_subject_max: int = _setting(
        100, "connections at once with tokens of one subject (429); a grant may say less", least=1, most=1_000_000
    )
    handshakes_per_s_max: int = _setting(
        1000, "connections begun a second, in bursts of five times that (503)", least=1, most=1_000_000
    )
    header_s_max: float = _setting(10.0, "time for a request's head to come", least=0.05, most=3600)
    internal_port: int = _setting(
        0, "port of /metrics, /livez and /readyz apart from the public one; 0: they are on that", least=0, most=65535
    )
    log_level: str = _setting("info", "debug, info, warning or error")
    log_format: str = _setting("text", "text or json, one line an event")
    log_lines_per_s_max: int = _setting(20, "lines a second of one kind; more are counted", least=1, most=100_000)
    otel_endpoint: str = _setting("", "where traces go, by OTLP over HTTP; none: there are none")
    drain_delay_s: float = _setting(
        0.0, "on SIGTERM, time for which clients are served on while /readyz fails", least=0, most=3600
    )
    drain_spread_s: float = _setting(
        2.0, "time over which the clients are then sent away, one after another", least=0, most=3600
    )
    shutdown_s_max: int = _setting(5, "time for what is under way to end on a stop", least=1, most=3600)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, least, most = getattr(self, setting.name), setting.metadata["least"], setting.metadata["most"]
            if least is not None and not least <= value <= most:  # nor is NaN
                raise ValueError(f"{setting.name}: expected {least} to {most}, was {value}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, was {getattr(self, name)[:40]!r}")
        session_start_us(self.session_start)
        origins(self.origins)
        proxies(self.trusted_proxies)
        delays_ms(self.delays)


def session_start_us(text: str) -> int:
    """``HH:MM`` as microseconds after midnight UTC; ValueError for anything else."""
    hours, colon, minutes = text.partition(":")
    if colon and hours.isdecimal() and minutes.isdecimal() and int(hours) < 24 and int(minutes) < 60:
        return (int(hours) * 60 + int(minutes)) * 60_000_000
    raise ValueError(f"session_start: expected a time of day such as 00:00 or 22:30, was {text!r}")


def origins(text: str) -> frozenset[str] | None:
    """The origins that a setting names, in lower case; None for any, empty for the server's own. Raises ValueError."""
    found = frozenset(part.strip().lower() for part in text.split(",") if part.strip())
    if "*" in found:
        return None
    for origin in found - {"null"}:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc:
            raise ValueError(f"origins: expected such as https://prices.example, with commas between, was {origin!r}")
    return found


def proxies(text: str) -> list[str]:
    """The addresses and networks that a setting names. Raises ValueError."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for part in found:
        try:
            ip_network(part)
        except ValueError:
            expected = "addresses or networks such as 10.0.0.0/8, with commas between"
            raise ValueError(f"trusted_proxies: expected {expected}, was {part[:80]!r}") from None
    return found


def delays_ms(text: str) -> tuple[int, ...]:
    """Minutes with commas between as whole milliseconds, the shortest first; ValueError for anything else."""
    texts = text.split(",") if text.strip() else []
    try:
        found = sorted(round(float(minutes) * 60_000) for minutes in texts)
    except (ValueError, OverflowError):  # no number; not a number, or without end
        found = [0]
    if not all(0 < delay_ms <= DELAY_MS_MAX for delay_ms in found):
        raise ValueError(
            f"delays: expected minutes above 0 and up to {DELAY_MS_MAX // 60_000}, such as 15 or 15,60, was {text!r}"
        )
    if len(set(found)) < len(found):
        raise ValueError(f"delays: expected each once, was {text!r}")
    if len(found) > DELAYS_MAX:
        raise ValueError(f"delays: expected {DELAYS_MAX} at most, as each reads every feed once more, was {text!r}")
    return tuple(found)


def flag(setting: Field[Any]) -> str:
    """The command-line flag of a setting."""
    return "--" + setting.name.replace("_", "-")


def variable(setting: Field[Any]) -> str:
    """The environment variable of a setting."""
    return "TICKER_" + setting.name.upper()


def table() -> str:
    """The settings as a Markdown table, as it stands in the README."""
    rows = ["| flag | environment | default | what it is |", "|---|---|---|---|"]
    for setting in fields(Settings):
        default = setting.default if setting.default != "" else "none"
        rows.append(f"| `{flag(setting)}` | `{variable(setting)}` | `{default}` | {setting.metadata['help']} |")
    return "\n".join(rows)
