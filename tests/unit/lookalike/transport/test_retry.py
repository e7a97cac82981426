"""Retries: delays, the server's retry_after, attempts and deadlines."""

from __future__ import annotations

import math

import pytest

from lookalike.model.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.transport.retry import MAX_ATTEMPTS, Backoff, Retry

UNAVAILABLE = PartitionUnavailable("gone")


def longest(low: float, high: float) -> float:
    return high


def retry(deadline: float = math.inf, **options: object) -> Retry:
    return Retry(deadline, clock=lambda: 100.0, jitter=longest, **options)  # type: ignore[arg-type]


def test_delays_double_up_to_the_maximum() -> None:
    backoff = Backoff(0.1, 2.0, longest)
    assert [backoff.next_seconds() for _ in range(6)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    backoff.reset()
    assert backoff.next_seconds() == pytest.approx(0.2)


def test_delay_stays_finite_after_very_many_failures() -> None:
    backoff = Backoff(0.1, 2.0, longest)
    backoff.failures = 5_000
    assert backoff.next_seconds() == 2.0


def test_jitter_shortens_a_delay_by_at_most_half() -> None:
    delays = [Backoff(1.0, 2.0).next_seconds() for _ in range(200)]
    assert all(1.0 <= delay <= 2.0 for delay in delays)
    assert len(set(delays)) > 100


def test_delay_is_at_least_what_the_server_asks_for() -> None:
    assert retry().delay_seconds(Overloaded("full", retry_after_ms=3_000)) == 3.0
    assert retry().delay_seconds(Overloaded("full", retry_after_ms=10)) == pytest.approx(0.2)


def test_gives_up_after_the_attempts() -> None:
    limited = retry(attempts=3)
    delays = [limited.delay_seconds(UNAVAILABLE) for _ in range(3)]
    assert delays[2] is None
    assert None not in delays[:2]


def test_gives_up_when_the_next_attempt_would_miss_the_deadline() -> None:
    assert retry(100.1).delay_seconds(UNAVAILABLE) is None
    assert retry(100.3).delay_seconds(UNAVAILABLE) == pytest.approx(0.2)


def test_error_that_is_not_transient_is_raised_at_once() -> None:
    error = InvalidRequest("k: is 0")
    with pytest.raises(InvalidRequest) as raised:
        retry().wait(error)
    assert raised.value is error


async def test_async_wait_raises_the_error_when_it_gives_up() -> None:
    with pytest.raises(PartitionUnavailable, match="gone"):
        await retry(0.0).wait_async(UNAVAILABLE)


def test_the_failure_that_was_retried_explains_a_last_attempt_without_a_response() -> None:
    late, answered = DeadlineExceeded("late"), DeadlineExceeded("the server's own deadline")
    answered.request_id = "id"
    for error, raised in ((late, UNAVAILABLE), (answered, answered)):
        retried = retry(attempts=3)
        retried.delay_seconds(UNAVAILABLE)
        with pytest.raises(LookalikeError) as failure:
            retried.wait(error)
        assert failure.value is raised
    retried.reset()
    with pytest.raises(DeadlineExceeded, match="late"):
        retried.wait(late)


def test_progress_resets_the_attempts_and_the_deadline() -> None:
    limited = retry(attempts=MAX_ATTEMPTS)
    for _ in range(MAX_ATTEMPTS - 1):
        assert limited.delay_seconds(UNAVAILABLE) is not None
    limited.reset(deadline=100.5)
    assert limited.failures == 0
    assert limited.delay_seconds(UNAVAILABLE) == pytest.approx(0.2)
    assert limited.delay_seconds(UNAVAILABLE) == pytest.approx(0.4)
    assert limited.delay_seconds(UNAVAILABLE) is None
