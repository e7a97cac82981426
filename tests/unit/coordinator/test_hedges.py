"""When a second replica is asked: after the 95th percentile of late, at most one call in twenty."""

from __future__ import annotations

from coordinator.replicas import Hedges


def test_at_most_one_call_in_twenty_is_hedged_in_the_long_run() -> None:
    hedges = Hedges()
    spent = 0
    for _ in range(10_000):
        hedges.called()
        spent += hedges.spend()
    assert 10_000 / 20 - 1 <= spent <= 10_000 / 20 + 5


def test_a_quiet_time_saves_up_no_more_than_a_few() -> None:
    hedges = Hedges()
    for _ in range(10_000):
        hedges.called()
    assert sum(hedges.spend() for _ in range(100)) == 5


def test_the_delay_follows_the_latencies_of_late() -> None:
    hedges = Hedges()
    first = hedges.delay
    for milliseconds in range(1, 101):
        hedges.answered(milliseconds / 1000)
    assert 0.09 <= hedges.delay <= 0.1
    for _ in range(400):
        hedges.answered(0.004)
    assert hedges.delay == 0.004
    for _ in range(400):
        hedges.answered(0.0001)
    # Not so early that a busy event loop alone would make calls slow.
    assert 0.001 < hedges.delay < first
