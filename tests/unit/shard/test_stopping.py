"""A rerank can be stopped, so that it does not delay the scans of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.cluster.scan import ScanGroup, Scoring
from lookalike.model.codespace import CodeSpace
from lookalike.model.features import pack
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.engine import Engine
from shard.kernel import ScanStopped
from shard.store import Store

SPACE = CodeSpace(64)


@pytest.mark.parametrize("scoring", [Scoring.RERANK_FEATURES, Scoring.RERANK_ASYMMETRIC])
def test_rerank_checks_whether_to_stop_before_each_query(tmp_path: Path, scoring: Scoring) -> None:
    Store.create(tmp_path / "s", SPACE, Indexing(features="int8", feature_width=16))
    engine = Engine(Store(tmp_path / "s"))
    vector = np.ones(16, np.float32)
    engine.write([VersionedRecord(str(n), bytes([n] * 8), "{}", 1, pack("int8", vector)) for n in range(50)])
    inputs = np.ones((8, 16), np.float32) if scoring is Scoring.RERANK_FEATURES else np.ones((8, 64), np.uint16)
    group = ScanGroup("c", SPACE.fingerprint, np.zeros((8, 8), np.uint8), 20, scoring=scoring, inputs=inputs)
    asked = 0

    def stop_after(count: int) -> bool:
        nonlocal asked
        asked += 1
        return asked > count

    assert len(engine.scan(group, lambda: stop_after(10**6)).hits.ranks) == 160
    total, asked = asked, 0
    with pytest.raises(ScanStopped):
        engine.scan(group, lambda: stop_after(total - 1))
    assert total >= 9
    engine.close()
