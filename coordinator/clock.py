"""Owns the versions of writes: a hybrid logical clock (Kulkarni et al., 2014), so that a later write has a
higher version even when a wall clock steps back."""

from __future__ import annotations

import time
from collections.abc import Callable

_COUNTER_BITS = 16


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """Versions are uint64: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16."""

    def __init__(self, wall_ms: Callable[[], int] = _wall_ms) -> None:
        self._wall_ms = wall_ms
        self._last = 0

    def next(self) -> int:
        """A version above every one given or observed before."""
        self._last = max(self._last + 1, self._wall_ms() << _COUNTER_BITS)
        return self._last

    def observe(self, version: int) -> None:
        """Take note of a version that another clock gave."""
        self._last = max(self._last, version)
