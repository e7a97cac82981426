"""The rate limit that keys, batch jobs and slot transfers share."""

from __future__ import annotations

import pytest

from lookalike.server.token_bucket import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_bucket_passes_its_rate_and_no_more() -> None:
    clock = Clock()
    bucket = TokenBucket(50, clock=clock)
    passed = 0
    for _ in range(10_000):
        passed += bucket.try_take(1) == 0
        clock.now += 0.001
    assert 50 + 490 <= passed <= 50 + 501


def test_refused_caller_passes_after_the_returned_seconds() -> None:
    clock = Clock()
    bucket = TokenBucket(10, clock=clock)
    assert bucket.try_take(30) == 0
    wait = bucket.try_take(1)
    assert wait == pytest.approx(2.1)
    clock.now += wait
    assert bucket.try_take(1) == 0


def test_take_returns_the_seconds_until_the_debt_is_paid() -> None:
    clock = Clock()
    bucket = TokenBucket(10, clock=clock)
    assert bucket.take(10) == 0
    assert bucket.take(5) == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.take(20) == pytest.approx(2.0)


def test_bucket_without_burst_delays_from_the_first_token_on() -> None:
    clock = Clock()
    bucket = TokenBucket(1_000, burst=0, clock=clock)
    assert bucket.take(500) == pytest.approx(0.5)
    clock.now += 100
    assert bucket.take(500) == pytest.approx(0.5)


def test_idle_bucket_saves_at_most_the_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(10, clock=clock)
    clock.now += 3_600
    assert bucket.take(10) == 0
    assert bucket.take(1) > 0
