"""The plan's arithmetic at its limits. The benchmarks test what it measures."""

from __future__ import annotations

import dataclasses

import pytest

from lookalike.model.errors import InvalidRequest
from shard.plan import Load, Machine, plan

LOAD = Load(images=10**9, bits=256, qps=500, p99_ms=100, replicas=2, overhead_ms=15)
MACHINE = Machine(cores=16, memory_bytes=128 * 10**9)
SPEEDS = {1: 20e9, 4: 80e9, 64: 130e9, 256: 130e9}


def test_a_billion_images_are_bound_by_time() -> None:
    made = plan(LOAD, MACHINE, SPEEDS)
    assert made.bound_by == "time"
    assert made.rows_per_partition * made.partitions >= LOAD.images
    assert made.memory_bytes == made.memory_bytes_per_shard * made.partitions * 2
    assert made.p99_ms <= 100
    assert made.batch >= 500 * made.scan_ms / 1e3
    assert made.machines * MACHINE.cores >= made.partitions * made.replicas


def test_plan_has_the_fewest_partitions() -> None:
    made = plan(LOAD, MACHINE, SPEEDS)
    less = dataclasses.replace(LOAD, images=LOAD.images * made.partitions // (made.partitions - 1) + 10**6)
    assert plan(less, MACHINE, SPEEDS).partitions > made.partitions


def test_small_memory_determines_the_partitions() -> None:
    made = plan(dataclasses.replace(LOAD, qps=1, p99_ms=10_000), Machine(4, 16 * 10**9), SPEEDS)
    assert made.bound_by == "memory"
    assert made.memory_bytes_per_shard <= 16 * 10**9 * 0.7 / 4


def test_small_collection_fits_one_partition() -> None:
    made = plan(dataclasses.replace(LOAD, images=1_000, replicas=1), MACHINE, SPEEDS)
    assert (made.partitions, made.machines) == (1, 1)


def test_impossible_load_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="allow more time"):
        plan(dataclasses.replace(LOAD, p99_ms=15), MACHINE, SPEEDS)


def test_memory_and_start_agree_with_the_measured_shard() -> None:
    """A shard of five million rows held 502 MB, took 750 MB on disk and started in 6.8 seconds."""
    made = plan(dataclasses.replace(LOAD, images=5_000_000, qps=1, replicas=1), MACHINE, SPEEDS)
    assert made.partitions == 1
    assert made.memory_bytes_per_shard == pytest.approx(502e6, rel=0.05)
    assert made.disk_bytes_per_shard == pytest.approx(750e6, rel=0.05)
    assert made.start_seconds == pytest.approx(6.8, rel=0.05)


def test_machine_too_small_for_a_shard_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="larger machines"):
        plan(LOAD, Machine(cores=16, memory_bytes=2 * 10**9), SPEEDS)
