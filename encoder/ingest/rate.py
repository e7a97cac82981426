"""Owns a limit on how fast records are sent: a bucket that fills at the rate and holds a second's worth."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets `per_second` records a second pass, on average; a second's worth at once. None: any number."""

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
        """Wait until `count` records may pass. More than a second's worth are let pass as a debt to wait for."""
        if self._rate is None:
            return
        now = self._clock()
        self._level = min(self._rate, self._level + (now - self._filled_at) * self._rate) - count
        self._filled_at = now
        if self._level < 0:
            self._sleep(-self._level / self._rate)
