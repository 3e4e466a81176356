"""Columns: what is done to whole arrays at once, wherever ticks are grouped by symbol. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def grouped(key: Ints, bound: int) -> Ints:
    """A stable order that sorts `key` (from 0, below `bound` <= 2**32): NumPy's radix sort, 16 bits at a time."""
    order = key.astype(np.uint16).argsort(kind="stable")  # the low 16 bits
    if bound > 2**16:
        order = order[(key[order] >> 16).astype(np.uint16).argsort(kind="stable")]
    return order


def starts(ordered: Ints) -> Ints:
    """Where each run of equal values starts in a grouped array, which is not empty."""
    starts = np.empty(len(ordered), np.bool_)
    starts[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=starts[1:])
    return starts.nonzero()[0]


def running_max(values: Ints, first: Ints) -> Ints:
    """The maximum so far within each run; a run starts at each of `first`. int64, as long as `values`."""
    low, high = int(values.min()), int(values.max())
    distinct = None
    if (high - low + 1) * len(first) >= 2**62:  # too far apart to lift each run above the one before: use ranks
        distinct, values = np.unique(values, return_inverse=True)
        low, high = 0, len(distinct) - 1
    lift = np.repeat(np.arange(len(first)) * (high - low + 1), np.diff(np.append(first, len(values))))
    running = np.maximum.accumulate(values - low + lift) - lift + low
    return running if distinct is None else distinct[running]


def longer(column: Ints, length: int, fill: int) -> Ints:
    grown = np.full(length, fill, np.int64)
    grown[: len(column)] = column
    return grown
