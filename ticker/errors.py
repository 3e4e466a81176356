"""Every error code and every close code of the protocol, in one place."""

from __future__ import annotations

from enum import Enum, StrEnum


class Code(StrEnum):
    """The `code` of an `error` message, or of one rejected symbol."""

    INVALID_REQUEST = "invalid_request"
    UNKNOWN_OP = "unknown_op"
    UNKNOWN_CHANNEL = "unknown_channel"
    UNKNOWN_FIELD = "unknown_field"
    INVALID_SYMBOL = "invalid_symbol"
    UNKNOWN_SYMBOL = "unknown_symbol"
    NOT_ENTITLED = "not_entitled"
    LIMIT_SYMBOLS = "limit_symbols"
    LIMIT_LANES = "limit_lanes"
    RATE_LIMITED = "rate_limited"
    AUTH_REQUIRED = "auth_required"
    AUTH_FAILED = "auth_failed"
    NOT_REPLAY = "not_replay"
    SOURCE_FAILED = "source_failed"

    @property
    def is_violation(self) -> bool:
        """Whether only a client that breaks the protocol meets it, rather than one that asks for too much."""
        return self in _VIOLATIONS


_VIOLATIONS = frozenset(
    (
        *(Code.INVALID_REQUEST, Code.UNKNOWN_OP, Code.UNKNOWN_CHANNEL, Code.UNKNOWN_FIELD, Code.NOT_REPLAY),
        Code.AUTH_FAILED,  # or else tokens could be guessed at leisure
    )
)


class RequestError(Exception):
    """A request is refused. `code` says why in a word, `message` what was expected and what came."""

    def __init__(self, code: Code, message: str, id: int | str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id


class Close(Enum):
    """How a connection ends: the close code, the reason on the wire, and whether a client should come back."""

    DONE = 1000, "done", False
    TOO_BIG = 1009, "message too big", False
    RESTARTING = 1012, "restarting", True
    TRY_LATER = 1013, "try again later", True
    VIOLATION = 4400, "protocol violation", False
    AUTH = 4401, "authentication failed or timed out", False
    FORBIDDEN = 4403, "not allowed", False
    TOO_SLOW = 4408, "too slow", True
    RATE_LIMITED = 4429, "rate limited", True

    def __init__(self, code: int, reason: str, reconnect: bool) -> None:
        self.code = code
        self.reason = reason
        self.reconnect = reconnect

    @classmethod
    def of(cls, code: int) -> Close | None:
        """The ending that has `code`, or None for a code that this protocol does not use."""
        return next((close for close in cls if close.code == code), None)
