"""Tests of the callers of one round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coordinator import fan_out
from coordinator.coverage import CoverageTracker
from coordinator.fan_out import FanOut, ScanAnswer
from coordinator.routing import Share
from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import ScanGroup, ScanResult

SHARES = (Share(0, b"", 512), Share(1, b"", 512))
CALLERS = 20


@pytest.mark.parametrize("seconds", [0.0, 2 * fan_out._STALL_SECONDS])
async def test_the_callers_of_a_round_share_one_merge(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partition 1 answers after `seconds`: the second time, after the round has stalled."""
    merges: list[int] = []
    merge = fan_out._merge

    def counted(parts: Sequence[ScanAnswer], group: ScanGroup) -> HitTable:
        merges.append(len(group.codes))
        return merge(parts, group)

    async def scan(share: Share, groups: Sequence[ScanGroup], deadline: float) -> list[ScanAnswer]:
        await asyncio.sleep(share.partition * seconds)
        return [result_of(share.partition, len(group.codes)) for group in groups]

    monkeypatch.setattr(fan_out, "_merge", counted)
    cluster: Any = SimpleNamespace(routing=SimpleNamespace(shares=SHARES))
    searches = FanOut(cluster, scan, CoverageTracker())
    deadline = asyncio.get_running_loop().time() + 10
    began = time.perf_counter()
    answers = await asyncio.gather(*(searches.ask(group(), deadline) for _ in range(CALLERS)))
    assert time.perf_counter() - began >= seconds
    assert sum(merges) == CALLERS
    assert len(merges) <= 2
    for answer in answers:
        assert answer.hits.keys.tolist() == ["k0", "k1"]
        assert (answer.coverage.complete, answer.coverage.rows_searched) == (True, 2)


def group() -> ScanGroup:
    return ScanGroup("c", "f", np.zeros((1, 8), np.uint8), 2)


def result_of(partition: int, queries: int) -> ScanResult:
    """One hit for each query."""
    hits = HitTable(
        queries,
        query_of=np.arange(queries),
        distances=np.full(queries, partition, np.uint16),
        ids=np.full(queries, partition, np.uint64),
        keys=np.full(queries, f"k{partition}", np.object_),
    )
    return ScanResult(hits, 1)
