"""Owns the versions of writes: a hybrid logical clock (Kulkarni et al., 2014), so that a later write has a higher
version even if the wall clock steps back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_NODE_BITS = 12
_COUNTER_BITS = 9
_STEP = 1 << _NODE_BITS
# Pairs of numbers, for a clock and its sibling. No number is 0: versions ending in 0 are limits that shards
# compute, and nobody's own.
_NODE_PAIRS = _STEP // 2 - 1


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def node_of(process: int, processes: int) -> int:
    """Returns a random number for the clock of one of several processes that share a port. It and the number of
    the clock's sibling differ from those of the other processes.

    Args:
        process: The process's number, from 0.
        processes: The number of processes.
    """
    return 1 + 2 * (processes * secrets.randbelow(_NODE_PAIRS // processes) + process)


class Clock:
    """Versions have 63 bits: milliseconds since 1970, a 9-bit counter, and 12 bits that identify the clock, drawn
    at random when the clock is created. So two clocks do not issue the same version, and a clock recognizes its
    own."""

    def __init__(self, wall_ms: Callable[[], int] = _wall_ms, node: int | None = None) -> None:
        self._wall_ms = wall_ms
        self._node = node_of(0, 1) if node is None else node
        self._last = 0

    def sibling(self) -> Clock:
        """Returns another clock, which does not recognize this clock's versions as its own."""
        return Clock(self._wall_ms, (self._node + 1) % _STEP)

    def next(self) -> int:
        """Returns a version above all that were issued or observed before."""
        now = self._wall_ms() << (_COUNTER_BITS + _NODE_BITS)
        self._last = max(self._last + _STEP, now) // _STEP * _STEP + self._node
        return self._last

    def reserve(self, count: int) -> npt.NDArray[np.uint64]:
        """Returns `count` versions, ascending, uint64 (count,), as `next` would."""
        first = self.next()
        self._last = first + _STEP * (count - 1)
        return np.uint64(first) + np.arange(count, dtype=np.uint64) * np.uint64(_STEP)

    def observe(self, version: int) -> None:
        """Records a version that another clock issued."""
        self._last = max(self._last, version)

    def issued(self, version: int) -> bool:
        """Returns whether this clock issued the version."""
        return version % _STEP == self._node
