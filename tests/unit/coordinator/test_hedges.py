"""When a second replica is called: after the 95th percentile of recent latencies, at most one call in twenty."""

from __future__ import annotations

from coordinator.hedging import Hedges


def test_at_most_one_call_in_twenty_is_hedged() -> None:
    hedges = Hedges()
    spent = 0
    for _ in range(10_000):
        hedges.record_call()
        spent += hedges.spend()
    assert 10_000 / 20 - 1 <= spent <= 10_000 / 20 + 5


def test_the_budget_is_capped() -> None:
    hedges = Hedges()
    for _ in range(10_000):
        hedges.record_call()
    assert sum(hedges.spend() for _ in range(100)) == 5


def test_the_delay_follows_recent_latencies() -> None:
    hedges = Hedges()
    first = hedges.delay
    for milliseconds in range(1, 101):
        hedges.record_latency(milliseconds / 1000)
    assert 0.09 <= hedges.delay <= 0.1
    for _ in range(400):
        hedges.record_latency(0.004)
    assert hedges.delay == 0.004
    for _ in range(400):
        hedges.record_latency(0.0001)
    # A floor, or a busy event loop alone would make calls slow.
    assert 0.001 < hedges.delay < first
