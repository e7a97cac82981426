"""Owns a limit on how fast records are sent."""

from __future__ import annotations

import time
from collections.abc import Callable

from lookalike.server.token_bucket import TokenBucket


class SendRate:
    """Lets `per_second` records pass per second on average, in bursts of up to one second's worth. With
    None, there is no limit."""

    def __init__(
        self,
        per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bucket = None if per_second is None else TokenBucket(per_second, clock=clock)
        self._sleep = sleep

    def take(self, count: int) -> None:
        """Waits until `count` records may pass. `count` may exceed one second's worth."""
        if self._bucket is not None and (wait := self._bucket.take(count)) > 0:
            self._sleep(wait)
