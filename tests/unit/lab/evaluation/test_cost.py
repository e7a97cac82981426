"""What an evaluation will cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lab.datasets.labelled import LabelledImages, Vectors
from lab.evaluation.cost import Cost, estimate, lines_of
from lab.evaluation.plan import Plan
from lab.evaluation.preparation import Workspace

PLAN = Plan("a.parquet", ["features"], ["column"], ["lsh", "itq"], [16, 64], [0, 1], 5, [], 0.0, None, None)


def labelled(indexed: int, queries: int) -> LabelledImages:
    total = indexed + queries
    features = np.random.default_rng(0).standard_normal((total, 64)).astype(np.float32)
    return LabelledImages(
        "a", ("cat", "dog"), np.eye(2, dtype=bool)[np.arange(total) % 2], tuple(map(str, range(total))),
        np.arange(indexed), np.arange(indexed, total), lambda _: b"",
        vectors=Vectors(features, None, None, "features", ""),
    )  # fmt: skip


@pytest.mark.parametrize(("indexed", "queries"), [(200, 50), (3, 40), (2, 1)])
def test_rows_of_all_seeds_are_counted_and_timed(
    indexed: int, queries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(PLAN, tmp_path, tmp_path, 1)
    monkeypatch.setattr(workspace, "dataset", lambda _: labelled(indexed, queries))
    found = estimate(PLAN, workspace, may_lack_weights=False)
    assert (found.rows, found.to_encode, found.disk_bytes) == (2 * (2 + 2 * 2 * 2), 0, 0)
    assert found.measure_seconds > 0
    through_a_cluster = dataclasses.replace(PLAN, has_cluster=True)
    assert estimate(through_a_cluster, workspace, may_lack_weights=False).rows == found.rows + 2 * 2 * 2 * 4


def test_rows_of_an_earlier_run_need_no_time(tmp_path: Path) -> None:
    cost = Cost(networks=0, rows=20, measure_seconds=600.0)
    lines = lines_of(cost, PLAN, labelled(200, 50), tmp_path, earlier=15)
    assert lines == [
        "a: 200 records to index, 50 to query with, 2 classes; 2 seeds, 20 rows",
        "measured by an earlier run: 15 rows; left: 5",
        "estimated time: nothing to encode; measuring about 2 min",
    ]
