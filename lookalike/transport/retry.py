"""Owns the retry policy: which errors are transient, how long to wait, and when to give up.

tenacity and stamina were considered. Both wrap one function call. Lookalike's retry loops fail over to another
endpoint without waiting, start over when a stream makes progress, honour the server's `retry_after_ms`, stop
before the deadline, and run inside sync and async generators. So a wrapper would need a custom wait, stop and
reset, and the client would need another package. Callers therefore write their own loops and ask this module for
each delay."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import grpc

from lookalike.model.errors import DeadlineExceeded, LookalikeError, Overloaded, PartitionUnavailable

BASE_SECONDS = 0.1
MAX_SECONDS = 2.0
# The waits between the attempts sum to 3.5 to 7 seconds: a coordinator that restarts is back by then.
MAX_ATTEMPTS = 7
TRANSIENT: tuple[type[LookalikeError], ...] = (PartitionUnavailable, Overloaded)

Jitter = Callable[[float, float], float]


class Backoff:
    """Exponential delays with jitter: each is 50 to 100 % of `base_seconds * 2**failures`, up to `max_seconds`."""

    def __init__(
        self, base_seconds: float = BASE_SECONDS, max_seconds: float = MAX_SECONDS, jitter: Jitter = random.uniform
    ) -> None:
        self._base = base_seconds
        self._max = max_seconds
        self._jitter = jitter
        self.failures = 0

    def next_seconds(self, retry_after_ms: int | None = None) -> float:
        """Counts a failure and returns the delay after it, never below the server's `retry_after_ms`."""
        self.failures += 1
        # The exponent is bounded, as 2.0**1024 overflows.
        delay = min(self._max, self._base * 2.0 ** min(self.failures, 64)) * self._jitter(0.5, 1.0)
        return max(delay, (retry_after_ms or 0) / 1000)

    def reset(self) -> None:
        """Starts over after a success."""
        self.failures = 0


class Retry:
    """The retries of one operation that is safe to repeat.

    Typical use, with `await retry.wait_async(error)` in a coroutine::

        retry = Retry(deadline, attempts=MAX_ATTEMPTS)
        while True:
            try:
                return call()
            except LookalikeError as error:
                retry.wait(error)
    """

    def __init__(
        self,
        deadline: float,
        *,
        attempts: int | None = None,
        transient: tuple[type[LookalikeError], ...] = TRANSIENT,
        max_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        jitter: Jitter = random.uniform,
    ) -> None:
        """Starts without failures.

        Args:
            deadline: When to give up, in `clock`'s seconds; math.inf for never. May be changed at any time.
            attempts: Consecutive failures after which to give up; None for any number.
            transient: The errors to retry.
            max_seconds: The upper bound of a delay, unless the server asks for more.
        """
        self.deadline = deadline
        self._attempts = attempts
        self._transient = transient
        self._clock = clock
        self._backoff = Backoff(BASE_SECONDS, max_seconds, jitter)
        self._retried: LookalikeError | None = None

    @property
    def failures(self) -> int:
        """The number of consecutive failures so far."""
        return self._backoff.failures

    def reset(self, deadline: float | None = None) -> None:
        """Starts over after progress, with a new deadline if one is given."""
        self._backoff.reset()
        self._retried = None
        if deadline is not None:
            self.deadline = deadline

    def delay_seconds(self, error: LookalikeError) -> float | None:
        """Counts a failure and returns the delay before the next attempt.

        Returns:
            Seconds, or None to give up: the error is not transient, the attempts are used up, or the next one
            would start at or after the deadline.
        """
        delay = self._backoff.next_seconds(error.retry_after_ms)
        if not isinstance(error, self._transient):
            return None
        self._retried = error
        if self._attempts is not None and self.failures >= self._attempts:
            return None
        return delay if delay < self.deadline - self._clock() else None

    def wait(self, error: LookalikeError) -> None:
        """Sleeps before the next attempt; raises `error` when it is time to give up."""
        time.sleep(self._delay_or_raise(error))

    async def wait_async(self, error: LookalikeError) -> None:
        """Sleeps before the next attempt; raises `error` when it is time to give up."""
        await asyncio.sleep(self._delay_or_raise(error))

    def _delay_or_raise(self, error: LookalikeError) -> float:
        delay = self.delay_seconds(error)
        if delay is None:
            raise self._cause(error)
        return delay

    def _cause(self, error: LookalikeError) -> LookalikeError:
        """Returns the error to raise. If the last attempt ran out of time without a response, the failure that was
        retried says more."""
        if self._retried and isinstance(error, DeadlineExceeded) and error.request_id is None:
            return self._retried
        return error


def was_never_sent(call: grpc.RpcError) -> bool:
    """Whether a call failed because gRPC could not connect. The server cannot have seen such a call, so even a
    call that is not safe to repeat may go to another endpoint."""
    text = (call.details() or "").lower()
    return call.code() is grpc.StatusCode.UNAVAILABLE and ("failed to connect" in text or "resolving" in text)
