"""Which candidates a search takes, what the shards need for them, and their final order."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator import scoring
from coordinator.merge import QueryHits, merge
from lookalike.cluster.scan import ScanHits, Scoring
from lookalike.model.errors import InvalidRequest


@pytest.mark.parametrize(
    ("wish", "plan"),
    [
        (("hamming", "none", 7, 10), (Scoring.HAMMING, 7)),
        (("asymmetric", "none", 7, 10), (Scoring.ASYMMETRIC, 7)),
        (("hamming", "asymmetric", 7, 10), (Scoring.RERANK_ASYMMETRIC, 70)),
        (("hamming", "features", 7, 1), (Scoring.RERANK_FEATURES, 7)),
        (("hamming", "features", 2_000, 10), (Scoring.RERANK_FEATURES, 10_000)),
        (("hamming", "features", 10_000, 1_000), (Scoring.RERANK_FEATURES, 10_000)),
    ],
)
def test_a_wish_becomes_a_plan(wish: tuple[str, str, int, int], plan: tuple[Scoring, int]) -> None:
    assert scoring.plan(*wish) == scoring.Plan(*plan)


def test_an_asymmetric_score_has_nothing_to_rerank() -> None:
    with pytest.raises(InvalidRequest, match="goes with score hamming"):
        scoring.plan("asymmetric", "features", 5, 10)


def test_weights_are_the_sizes_of_projections_whatever_their_scale() -> None:
    projections = np.array([0.5, -1.0, 0.25, -0.0, 1.0, 0.1, -0.2, -0.3], np.float32)
    code = np.packbits(projections > 0).tobytes()
    weights = scoring.weights(projections, code)
    assert weights.tolist() == [32768, 65535, 16384, 0, 65535, 6554, 13107, 19661]
    assert scoring.weights(projections * np.float32(1e-20), code).tolist() == weights.tolist()
    assert scoring.weights(np.zeros(8, np.float32), bytes(1)).tolist() == [0] * 8


def test_projections_of_another_code_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="other signs than the code's bits"):
        scoring.weights(np.ones(8, np.float32), b"\xfe")


def test_candidates_are_reordered_by_rank_then_id_then_as_they_were() -> None:
    hits = QueryHits([1, 2, 3, 3], [9, 4, 4, 4], ["a", "b", "c", "d"], [], [0.5, 0.5, 0.5, 0.25])
    assert scoring.reordered(hits).keys == ["d", "b", "c", "a"]


def test_parts_that_are_scored_merge_by_rank() -> None:
    def part(*rows: tuple[float, int, int]) -> ScanHits:
        ranks, distances, ids = zip(*rows, strict=True)
        return ScanHits(
            [len(rows)], np.array(distances, np.uint16), np.array(ids, np.uint64), [str(i) for i in ids], [], 9,
            ranks=np.array(ranks),
        )  # fmt: skip

    [hits] = merge([part((0.1, 5, 8), (0.3, 1, 2)), part((0.1, 6, 3), (0.2, 9, 4))], 1, 3, by_rank=True)
    assert (hits.ids, hits.distances, hits.ranks) == ([3, 8, 4], [6, 5, 9], [0.1, 0.1, 0.2])
