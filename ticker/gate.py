"""The gate: who may connect at all, before anything else is asked. Pure: no socket, no clock.

It counts who is inside, by address and by subject, and how fast newcomers come, and looks at the page that a browser
says it comes from. Whoever is let in has to leave: a `Visit` is a context.

Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address
from typing import Final, Self
from urllib.parse import urlsplit

from ticker.session import Bucket
from ticker.settings import Settings, origins

#: Handshakes come in bursts: so many seconds' worth of them at once.
BURST_S: Final = 5
RETRY_AFTER_S: Final = 5
#: The network that one IPv6 subscriber has to itself.
IPV6_PREFIX: Final = 64
PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class RefusalError(Exception):
    """Somebody is not let in: the HTTP status, a word for the metrics, and a sentence."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.sentence = sentence

    @property
    def retry_after_s(self) -> int | None:
        """When to try again; None where that would not help."""
        return None if self.status == 403 else RETRY_AFTER_S


class Visit:
    """A connection that was let in, counted for as long as this context lasts. There is one for each client: it is small."""

    __slots__ = ("_gate", "network", "subject")

    def __init__(self, gate: Gate, network: str) -> None:
        self._gate = gate
        #: What its address counts as.
        self.network = network
        #: Whose it is, once that is known.
        self.subject = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.leave(self)

    def seat(self, subject: str, most: int | None = None) -> None:
        """Count it as one of `subject`, which may have `most` at once, if the settings do not say less. Raises RefusalError.

        Nobody in particular, the empty subject, is not counted.
        """
        self._gate.seat(self, subject, most)


class Gate:
    """Who is inside, and who else may come in."""

    def __init__(self, settings: Settings, now: int) -> None:
        self._settings = settings
        #: Set once nobody is let in any more, because the server is going to stop.
        self.draining = False
        #: How many were not let in, by reason.
        self.refusals: Counter[str] = Counter()
        #: Connections inside.
        self.inside = 0
        self._addresses: Counter[str] = Counter()
        self._subjects: Counter[str] = Counter()
        rate = settings.handshakes_per_s_max
        self._handshakes = Bucket(rate, BURST_S * rate, now)
        self._origins = origins(settings.origins)

    @property
    def subjects(self) -> int:
        """How many different subjects are inside."""
        return len(self._subjects)

    def knock(self, now: int) -> None:
        """Let a request in that is answered at once. Raises RefusalError."""
        if not self._handshakes.take(1, now):
            rate = self._settings.handshakes_per_s_max
            raise self._refused(503, "rate", f"busy: expected at most {rate} requests a second; try again later")

    def admit(self, address: str | None, now: int, *, origin: str | None = None, host: str | None = None) -> Visit:
        """Let a connection in, to be counted until its visit ends. Raises RefusalError.

        `origin` and `host` are the headers of those names; without an Origin it is no page that asks.
        """
        settings = self._settings
        if self.draining:
            raise self._refused(503, "draining", "going: try again later")
        if self.inside >= settings.connections_max:
            raise self._refused(503, "full", "full: try again later")
        if origin is not None and not self._allows(origin, host):
            raise self._refused(403, "origin", f"origin: expected a page of {self._pages(host)}, was {origin[:80]!r}")
        network = network_of(address)
        if self._addresses[network] >= settings.connections_per_address_max:
            most = settings.connections_per_address_max
            raise self._refused(429, "address", f"expected at most {most} connections from one address")
        self.knock(now)
        self.inside += 1
        self._addresses[network] += 1
        return Visit(self, network)

    def seat(self, visit: Visit, subject: str, most: int | None) -> None:
        """Count a visit as one of its subject's; see `Visit.seat`."""
        limit = self._settings.connections_per_subject_max
        limit = limit if most is None else min(limit, most)
        if subject:
            if self._subjects[subject] >= limit:
                raise self._refused(429, "subject", f"expected at most {limit} connections with tokens of one subject")
            self._subjects[subject] += 1
            visit.subject = subject

    def leave(self, visit: Visit) -> None:
        """Count a visit no more."""
        self.inside -= 1
        _less(self._addresses, visit.network)
        if visit.subject:
            _less(self._subjects, visit.subject)

    def refuse(self, reason: str) -> None:
        """Count somebody who was not let in elsewhere."""
        self.refusals[reason] += 1

    def _refused(self, status: int, reason: str, sentence: str) -> RefusalError:
        self.refuse(reason)
        return RefusalError(status, reason, sentence)

    def _allows(self, origin: str, host: str | None) -> bool:
        if self._origins is None:
            return True
        if self._origins:
            return origin.lower() in self._origins
        own = _place(f"{origin.partition(':')[0]}://{host}")
        return own is not None and _place(origin) == own

    def _pages(self, host: str | None) -> str:
        return ", ".join(sorted(self._origins)) if self._origins else f"this server's own, {host}"


def network_of(address: str | None) -> str:
    """What an address is counted by: itself, or with IPv6 the network that a subscriber has."""
    try:
        parsed = ip_address(address or "")
    except ValueError:  # a Unix socket
        return address or ""
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX))}/{IPV6_PREFIX}"


def _place(url: str) -> tuple[str | None, int | None] | None:
    """Host and port of a URL; None where it has none that can be read."""
    try:
        parts = urlsplit(url.lower())
        return (parts.hostname, parts.port or PORTS.get(parts.scheme)) if parts.hostname else None
    except ValueError:
        return None


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
