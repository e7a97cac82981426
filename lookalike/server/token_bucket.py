"""Owns the token bucket, which limits the rates of API keys, batch jobs and slot transfers.

aiolimiter was considered: it is async only, can only wait, and rejects amounts above its capacity. Lookalike needs
more: an API key's limit rejects requests with a retry-after, a batch job sends from threads, and a batch may take
more tokens than one second yields."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class TokenBucket:
    """A token bucket, refilled at `rate` tokens per second up to `burst`. Safe to share between threads."""

    def __init__(
        self, rate: float, burst: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Makes a full bucket.

        Args:
            rate: Tokens per second.
            burst: The capacity; None for the tokens of one second.
            clock: Returns monotonic seconds.
        """
        self.rate = rate
        self._burst = rate if burst is None else burst
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._burst
        self._refilled_at = clock()

    def try_take(self, count: float) -> float:
        """Takes `count` tokens if the bucket is not empty. Taking more tokens than it holds leaves a debt, so a
        request larger than the burst still passes.

        Returns:
            0, or, if nothing was taken, the seconds until there is one token.
        """
        with self._lock:
            self._refill()
            if self._tokens <= 0:
                return (1 - self._tokens) / self.rate
            self._tokens -= count
            return 0.0

    def take(self, count: float) -> float:
        """Takes `count` tokens in any case, which may leave a debt.

        Returns:
            The seconds to wait until the debt is paid.
        """
        with self._lock:
            self._refill()
            self._tokens -= count
            return max(0.0, -self._tokens / self.rate)

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self.rate)
        self._refilled_at = now
