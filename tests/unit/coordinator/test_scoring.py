"""How many candidates a search requests, and what the shards need to score them."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator import scoring
from lookalike.cluster.scan import Scoring
from lookalike.model.errors import InvalidRequest
from lookalike.model.search_options import Rerank, Score, SearchOptions


@pytest.mark.parametrize(
    ("score", "rerank", "k", "oversampling", "scoring_and_candidates"),
    [
        ("hamming", "none", 7, 10, (Scoring.HAMMING, 7)),
        ("asymmetric", "none", 7, 10, (Scoring.ASYMMETRIC, 7)),
        ("hamming", "asymmetric", 7, 10, (Scoring.RERANK_ASYMMETRIC, 70)),
        ("hamming", "features", 7, 1, (Scoring.RERANK_FEATURES, 7)),
        ("hamming", "features", 2_000, 10, (Scoring.RERANK_FEATURES, 10_000)),
        ("hamming", "features", 10_000, 1_000, (Scoring.RERANK_FEATURES, 10_000)),
    ],
)
def test_options_become_a_plan(
    score: Score, rerank: Rerank, k: int, oversampling: int, scoring_and_candidates: tuple[Scoring, int]
) -> None:
    options = SearchOptions(k=k, score=score, rerank=rerank, oversampling=oversampling)
    assert scoring.plan(options) == scoring.ScoringPlan(*scoring_and_candidates)


def test_an_asymmetric_score_rejects_a_rerank() -> None:
    with pytest.raises(InvalidRequest, match="requires score hamming"):
        scoring.plan(SearchOptions(score="asymmetric", rerank="features"))


def test_weights_are_the_magnitudes_of_projections_at_any_scale() -> None:
    projections = np.array([0.5, -1.0, 0.25, -0.0, 1.0, 0.1, -0.2, -0.3], np.float32)
    code = np.packbits(projections > 0).tobytes()
    weights = scoring.weights(projections, code)
    assert weights.tolist() == [32768, 65535, 16384, 0, 65535, 6554, 13107, 19661]
    assert scoring.weights(projections * np.float32(1e-20), code).tolist() == weights.tolist()
    assert scoring.weights(np.zeros(8, np.float32), bytes(1)).tolist() == [0] * 8


def test_projections_of_another_code_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match="signs do not match the code's bits"):
        scoring.weights(np.ones(8, np.float32), b"\xfe")
