"""`lookalike evaluate --cluster`: the same features and codes, searched through a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from lab.evaluation import through_cluster
from tests.command import lookalike


def test_a_cluster_gives_the_figures_of_the_local_scan_and_is_not_started_again(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(photographs.rglob("*.jpg"))
    pixels = [np.asarray(Image.open(path).convert("L").resize((16, 16)), np.float32).ravel() for path in paths]
    keys, labels = [path.name for path in paths], [path.parent.name for path in paths]
    columns = {"key": keys, "features": pixels, "label": labels}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")

    def evaluated() -> list[dict[str, Any]]:
        code, printed, errors = lookalike(
            "evaluate", tmp_path / "a.parquet", "--cache", tmp_path, "--output", tmp_path / "out", "--bits", 64,
            "--methods", "lsh", "--cluster", "--json",
        )  # fmt: skip
        assert (code, errors) == (0, "")
        rows: list[dict[str, Any]] = json.loads(printed)["results"]
        return rows

    rows = evaluated()
    figures = {row["score"]: row["map5"] for row in rows}
    assert {
        f"cluster {mode}" for mode in ("hamming", "score=asymmetric", "rerank=asymmetric", "rerank=features")
    } == {score for score in figures if score.startswith("cluster")}
    assert figures["cluster hamming"] == pytest.approx(figures["hamming"])
    assert figures["cluster score=asymmetric"] == pytest.approx(figures["asymmetric"])
    # All 30 records are candidates, and int8 changes few ranks.
    assert figures["cluster rerank=features"] == pytest.approx(figures["cosine"], abs=0.05)

    def refuse() -> None:
        raise AssertionError("a cluster is started")

    monkeypatch.setattr(through_cluster, "cluster", refuse)
    assert evaluated() == rows
