"""How a connection ends, what to do about it, and how long to wait before the next one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto

from ticker.errors import Close


class Advice(Enum):
    """What to do about the end of a connection."""

    #: Come back, but not at once.
    RECONNECT = auto()
    #: Come back when `after_s` has passed: the server asked for it, nothing failed.
    MOVE = auto()
    #: Stay away: the next try would fail in the same way.
    FAIL = auto()
    #: There is no more to come.
    FINISH = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended, or why there was none. `after_s` is how long the server asked to stay away."""

    advice: Advice
    reason: str
    after_s: float = 0.0


def closed(code: int | None, reason: str) -> Ending:
    """The ending by a close frame with `code`; None where the connection was cut without one (1006).

    A code that the protocol does not use is as good as a cut.
    """
    if code is None:
        return Ending(Advice.RECONNECT, "the connection was cut")
    close = Close.of(code)
    text = f"closed with {code} {reason or (close.reason if close else '')}".rstrip()
    if close is None or close.reconnect:
        return Ending(Advice.RECONNECT, text)
    return Ending(Advice.FINISH if close is Close.DONE else Advice.FAIL, text)


def refused(status: int, headers: Mapping[str, str]) -> Ending:
    """The ending by an HTTP answer before the upgrade: that of a busy or broken server passes, any other does not."""
    text = f"refused with HTTP {status}"
    if status in {408, 425, 429} or status >= 500:
        return Ending(Advice.RECONNECT, text, _retry_after_s(headers))
    return Ending(Advice.FAIL, text)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """`Retry-After` in either of its forms (RFC 9110, section 10.2.3); 0 where it is absent or unreadable."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError):  # one of them is no date, or has no zone
        return 0.0
    return max(0.0, wait.total_seconds())


class Backoff:
    """How long to wait before each next try: exponential, with full jitter and a ceiling.

    Starts anew only after a connection that lasted, so that a server that takes connections only to drop them is not
    tried ever faster.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        base_s: float = 0.5,
        ceiling_s: float = 30.0,
        stable_s: float = 30.0,
    ) -> None:
        """`random` gives numbers from 0 to below 1."""
        self._random = random
        self._base_s = base_s
        self._ceiling_s = ceiling_s
        self._stable_s = stable_s
        self._window_s = base_s

    def delay_s(self, lived_s: float, after_s: float = 0.0) -> float:
        """The wait after a connection that lasted `lived_s`, 0 if none came about, and at least `after_s`."""
        if lived_s >= self._stable_s:
            self._window_s = self._base_s
        delay_s = self.spread_s(after_s)
        self._window_s = min(2 * self._window_s, self._ceiling_s)
        return delay_s

    def spread_s(self, after_s: float) -> float:
        """`after_s` and a random part, so that the clients that were told the same do not come at once."""
        return after_s + self._random() * self._window_s
