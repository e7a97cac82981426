"""Which replica is preferred, by what calls and polls have shown."""

from __future__ import annotations

import dataclasses

import pytest

from coordinator.replica import LAG_SECONDS, ReplicaHealth
from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import Readiness, ShardState
from lookalike.cluster.slots import SlotTable
from lookalike.model.errors import Corruption, SlotMoved

FRESH = ShardState(
    "c", 0, 0, [], 0, 1.0, "i", True, (), Target(1, 1), SlotTable.empty(0), Readiness.READY, "", 0, 0, {}, {}, 0,
    {},
)  # fmt: skip


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def health(time: Time) -> ReplicaHealth:
    return ReplicaHealth(time)


def test_a_new_replica_is_preferred_but_not_live(health: ReplicaHealth) -> None:
    assert (health.penalty, health.is_live) == (0, False)
    health.mark_polled(FRESH, 100.0)
    assert (health.penalty, health.is_live) == (0, True)


def test_failures_back_off_exponentially_until_a_poll_succeeds(health: ReplicaHealth, time: Time) -> None:
    for seconds in (0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0):
        health.mark_failed(Corruption("damaged"))
        time.now += seconds - 0.001
        assert health.penalty == 2
        time.now += 0.002
        assert health.penalty == 0
    health.mark_polled(FRESH, time.now)
    health.mark_failed(Corruption("damaged"))
    time.now += 0.251
    assert health.penalty == 0


def test_a_moved_slot_is_not_a_failure(health: ReplicaHealth) -> None:
    health.mark_failed(SlotMoved("moved"))
    assert health.penalty == 0


def test_a_slow_replica_is_avoided_until_it_answers_a_poll(health: ReplicaHealth, time: Time) -> None:
    health.mark_suspect()
    time.now += 3_600
    assert health.penalty == 2
    health.mark_polled(None, time.now)
    assert health.penalty == 2
    health.mark_polled(FRESH, time.now)
    assert health.penalty == 0


def test_a_replica_that_does_not_serve_comes_last(health: ReplicaHealth) -> None:
    health.mark_polled(FRESH, 100.0)
    health.mark_serving(False)
    assert (health.penalty, health.is_live) == (3, False)
    health.mark_serving(True)
    assert (health.penalty, health.is_live) == (0, True)


def test_a_replica_that_lags_is_avoided(health: ReplicaHealth) -> None:
    health.mark_polled(dataclasses.replace(FRESH, stale_ms=int(LAG_SECONDS * 1000) + 1), 100.0)
    assert (health.lags, health.penalty) == (True, 1)
    health.mark_polled(FRESH, 100.0)
    assert (health.lags, health.penalty) == (False, 0)


def test_a_missed_write_is_caught_up_once_the_replica_is_fresher(health: ReplicaHealth) -> None:
    health.mark_missed_write(100.0)
    health.mark_polled(FRESH, 100.0)
    assert health.lags
    health.mark_polled(dataclasses.replace(FRESH, stale_ms=2_000), 101.0)
    assert health.lags
    health.mark_polled(dataclasses.replace(FRESH, stale_ms=2_000), 102.5)
    assert not health.lags


def test_a_replica_is_down_after_long_silence_and_up_with_its_first_answer(
    health: ReplicaHealth, time: Time
) -> None:
    health.mark_unanswered(1.0)
    assert (health.is_down, health.penalty) == (False, 0)
    time.now += 1.0
    health.mark_unanswered(1.0)
    assert (health.is_down, health.penalty, health.silent_seconds) == (True, 3, 2.0)
    health.mark_answered()
    assert (health.is_down, health.penalty, health.silent_seconds) == (False, 0, 0.0)


@pytest.mark.parametrize("answer", ["poll", "stream"])
def test_a_poll_or_the_health_stream_ends_silence(health: ReplicaHealth, answer: str) -> None:
    health.mark_unanswered(5.0)
    assert health.is_down
    if answer == "poll":
        health.mark_polled(FRESH, 100.0)
    else:
        health.mark_serving(True)
    assert not health.is_down


def test_a_slow_call_is_no_silence_while_other_calls_are_answered(health: ReplicaHealth, time: Time) -> None:
    time.now += 9.0
    health.mark_answered()
    time.now += 1.0
    health.mark_unanswered(10.0)
    assert (health.is_down, health.silent_seconds) == (False, 0.0)


def test_impatient_calls_say_nothing(health: ReplicaHealth, time: Time) -> None:
    for _ in range(100):
        health.mark_unanswered(0.1)
        time.now += 0.1
    assert (health.is_down, health.silent_seconds) == (False, 0.0)
