"""A client's copy of the server's state: messages in, kept items out. Pure; shared by the client, `tail` and the tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

Item = dict[str, Any]

#: Members of an update item that tell what happened since `prev`, rather than what now is.
SINCE_PREV: Final = frozenset(("prev", "hi", "lo", "vol"))


class Mirror:
    """The newest item of every symbol, kept by the rules of the protocol's guarantees 4, 5 and 7.

    Invariant: an item in `items` equals the server's state of its symbol at the item's `seq`, for the fields that were
    subscribed, and its `n` the server's count. A symbol in `broken` waits for a snapshot; its item is the last good one.
    """

    __slots__ = ("broken", "epoch", "items")

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        #: Symbols whose chain broke and whose snapshot has not come yet.
        self.broken: set[str] = set()
        #: Names the server's log; None before the first `welcome`.
        self.epoch: str | None = None

    def apply(self, message: Mapping[str, Any]) -> list[str]:
        """Take in one message of the server; those that carry no state are ignored.

        Returns the symbols whose chain has just broken: the caller sends a `resync` for them. It is told once; until
        the snapshot comes, their updates are passed over.
        """
        match message["type"]:
            case "snapshot":
                for item in message["items"]:
                    self.items[item["symbol"]] = dict(item)
                    self.broken.discard(item["symbol"])
            case "update":
                return [item["symbol"] for item in message["items"] if not self._fold(item)]
            case "subscribed":
                for symbol, n in message["resumed"].items():
                    if symbol in self.items:
                        self.items[symbol]["n"] = n
            case "welcome" | "epoch":
                self.epoch = message["epoch"]
        return []

    def since(self, symbols: Iterable[str] | None = None) -> dict[str, int]:
        """What to send as `since`: the seq of every whole item, or of those of `symbols`."""
        names = self.items if symbols is None else symbols
        return {name: self.items[name]["seq"] for name in names if name in self.items and name not in self.broken}

    def drop(self, symbols: Iterable[str]) -> None:
        """Forget `symbols`: the client watches them no more."""
        for symbol in symbols:
            self.items.pop(symbol, None)
            self.broken.discard(symbol)

    def _fold(self, update: Mapping[str, Any]) -> bool:
        """Fold an update item in; False where its chain has just broken."""
        symbol = update["symbol"]
        if symbol in self.broken:
            return True
        item = self.items.get(symbol)
        if item is None or item["seq"] != update["prev"]:
            self.broken.add(symbol)
            return False
        n = item["n"] + update["n"]
        item.update((name, value) for name, value in update.items() if name not in SINCE_PREV)
        item["n"] = n
        return True
