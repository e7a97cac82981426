"""Readiness: when reads are answered, and how it travels."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from lookalike import wire
from lookalike.cluster.shard_state import Readiness, ShardState
from lookalike.model.errors import Recovering
from shard.membership import Identity
from shard.node import Node
from shard.readiness import ReadinessTracker
from shard.replication.become_ready import LOADING_SIBLING_SECONDS, next_readiness
from shard.status import ShardStatus

LOADING, CATCHING_UP, FILLING, READY = Readiness


@pytest.mark.parametrize(
    ("siblings", "compared", "is_filling", "waited", "expected"),
    [
        ([], False, False, 0.0, READY),
        ([], False, True, 0.0, READY),
        ([READY], False, False, 99.0, CATCHING_UP),
        ([READY], True, False, 0.0, READY),
        ([READY], True, True, 0.0, FILLING),
        ([LOADING], False, False, LOADING_SIBLING_SECONDS - 1, CATCHING_UP),
        ([LOADING], False, False, LOADING_SIBLING_SECONDS, READY),
        ([LOADING], False, True, LOADING_SIBLING_SECONDS, FILLING),
        ([LOADING, CATCHING_UP], False, False, LOADING_SIBLING_SECONDS, CATCHING_UP),
    ],
)
def test_shard_is_ready_once_it_has_what_a_live_sibling_has(
    siblings: list[Readiness], compared: bool, is_filling: bool, waited: float, expected: Readiness
) -> None:
    assert next_readiness(siblings, compared, is_filling, waited) is expected


def test_reads_wait_for_ready_and_writes_for_loaded() -> None:
    tracker = ReadinessTracker(3)
    with pytest.raises(Recovering, match="partition 3 is loading"):
        tracker.require_loaded()
    tracker.mark_loaded()
    tracker.require_loaded()
    with pytest.raises(Recovering, match="partition 3 is loading"):
        tracker.require_ready()
    tracker.state = CATCHING_UP
    with pytest.raises(Recovering, match="partition 3 is catching up"):
        tracker.require_ready()
    tracker.state = READY
    tracker.require_ready()
    assert tracker.reason == ""


def test_age_counts_from_the_last_comparison() -> None:
    tracker = ReadinessTracker(0)
    assert tracker.stale_ms == 0
    tracker.fresh_at = time.monotonic() - 5
    assert 5_000 <= tracker.stale_ms < 60_000


async def test_dump_waits_until_earlier_writes_are_here() -> None:
    tracker = ReadinessTracker(0)
    now = time.monotonic()
    tracker.fresh_at = now - 1
    waiting = asyncio.create_task(tracker.wait_fresh(now))
    await asyncio.sleep(0)
    assert not waiting.done()
    tracker.fresh_at = now
    await asyncio.wait_for(waiting, 10)


def state(folder: Path) -> ShardState:
    node = Node(folder, Identity("c", 0, 0))
    found = ShardStatus(node, ReadinessTracker(0)).state()
    node.close()
    return found


@pytest.mark.parametrize("readiness", Readiness)
def test_readiness_survives_the_wire_whatever_the_reason_says(tmp_path: Path, readiness: Readiness) -> None:
    sent = dataclasses.replace(state(tmp_path), readiness=readiness, reason="partition 0 is loading")
    message = wire.state_to_wire(sent)
    received = wire.state_from_wire(message)
    assert (received.readiness, received.reason) == (readiness, sent.reason)
    assert message.ready == received.is_ready == (readiness is READY)


@pytest.mark.parametrize(("ready", "expected"), [(True, READY), (False, LOADING)])
def test_sender_without_the_field_counts_as_loading_until_it_is_ready(
    tmp_path: Path, ready: bool, expected: Readiness
) -> None:
    message = wire.state_to_wire(dataclasses.replace(state(tmp_path), readiness=READY))
    message.ClearField("readiness")
    message.ready = ready
    assert wire.state_from_wire(message).readiness is expected
