"""Opening the format of a log's values by its name: one that is built in, or one that an installed package brings."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from feeds.feed import FeedError
from feeds.fields import LayoutOf
from feeds.values import FORMATS, Format, FormatOf

#: The group of entry points that name a `FormatOf`.
GROUP: Final = "ticker.formats"


def open_format(name: str, layout: LayoutOf) -> Format:
    """The format `name`; what is built in comes first. Raises FeedError, in one line, where there is none or it fails."""
    return (FORMATS.get(name) or _installed(name))(layout)


def _installed(name: str) -> FormatOf:
    found = entry_points(group=GROUP)
    if name not in found.names:
        raise FeedError(
            f"format {name!r}: expected one of {', '.join([*FORMATS, *sorted(found.names - FORMATS.keys())])}"
        )
    entry = found[name]
    try:
        format_of: FormatOf = entry.load()
    except (ImportError, AttributeError) as error:
        raise FeedError(f"format {name!r}: cannot load {entry.value}: {error}") from None
    return format_of
