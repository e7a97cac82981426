"""Owns when a read calls a second replica: after which delay, and within which budget of extra calls."""

from __future__ import annotations

import collections

HEDGE_SHARE = 0.05
_MAX_BUDGET = 5.0
_LATENCIES = 200
_MIN_LATENCIES = 20
_FIRST_DELAY_SECONDS = 0.05
_MIN_DELAY_SECONDS = 0.002


class Hedges:
    """The delay follows recent latencies; the budget of extra calls grows with the number of calls."""

    def __init__(self) -> None:
        self._latencies: collections.deque[float] = collections.deque(maxlen=_LATENCIES)
        self._budget = _MAX_BUDGET
        self._delay = _FIRST_DELAY_SECONDS
        self._since = 0

    def record_call(self) -> None:
        """Counts a call: adds HEDGE_SHARE of an extra call to the budget."""
        self._budget = min(_MAX_BUDGET, self._budget + HEDGE_SHARE)

    def record_latency(self, seconds: float) -> None:
        """Adds the latency of an answered call."""
        self._latencies.append(seconds)
        self._since += 1
        if self._since >= _MIN_LATENCIES:
            self._since = 0
            ordered = sorted(self._latencies)
            self._delay = max(_MIN_DELAY_SECONDS, ordered[int(len(ordered) * 0.95)])

    @property
    def delay(self) -> float:
        """Seconds after which a call counts as slow: the 95th percentile of recent latencies."""
        return self._delay

    def spend(self) -> bool:
        """Takes one call from the budget. Returns False if the budget is exhausted."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True
