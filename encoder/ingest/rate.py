"""Owns the limit on records per second: a token bucket that holds one second's worth."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets `per_second` records a second pass, on average, and one second's worth at once. None: no limit."""

    def __init__(
        self,
        per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = per_second
        self._clock = clock
        self._sleep = sleep
        self._level = per_second or 0.0
        self._filled_at = clock()

    def take(self, count: int) -> None:
        """Waits until `count` records may pass. The count may exceed one second's worth: the bucket goes into
        debt, and the call waits until the debt is paid."""
        if self._rate is None:
            return
        now = self._clock()
        self._level = min(self._rate, self._level + (now - self._filled_at) * self._rate) - count
        self._filled_at = now
        if self._level < 0:
            self._sleep(-self._level / self._rate)
