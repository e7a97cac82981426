"""Owns the metric updates that requests defer: it applies 256 at a time, or all before a scrape. In the middle of
a request an update misses the processor's caches and takes several times as long."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.registry import Collector

_AT_ONCE = 256
_waiting: collections.deque[tuple[Callable[..., object], tuple[Any, ...]]] = collections.deque()


def later(update: Callable[..., object], *values: Any) -> None:
    """Calls `update(*values)` before the next scrape. Any thread may call it."""
    _waiting.append((update, values))
    if len(_waiting) >= _AT_ONCE:
        apply()


def apply() -> None:
    """Makes the calls that wait."""
    while True:
        try:
            update, values = _waiting.popleft()
        except IndexError:  # another thread may have taken the last one
            return
        update(*values)


class Applied(Collector):
    """Makes the calls that wait at the beginning of a scrape; it has no metrics itself."""

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterable[Any]:
        apply()
        return ()
