"""Owns scores other than the Hamming distance: the plan for a search, and the inputs that the shards need for it.

The shards score the candidates of a rerank, but the coordinator chooses them: the nearest records of all
partitions by (Hamming distance, id, key). So neither the candidates nor the answer depend on the number of
shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.catalog import NotInLayout
from lookalike.cluster.scan import Codes, Inputs, Scoring
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.records import MAX_K
from lookalike.model.search_options import SearchOptions

# Limits on one request: how many feature values it compares (at the limit, that takes some seconds), and how many
# bytes of query features it sends to each shard.
MAX_COMPARED = 300_000_000
MAX_FEATURE_BYTES = 8 * 1024 * 1024
_MAX_WEIGHT = np.iinfo(np.uint16).max


@dataclasses.dataclass(frozen=True, slots=True)
class ScoringPlan:
    """How to score a search. scoring: what the shards compute. candidates: the hits to request per query; offset
    and k together if there is no rerank."""

    scoring: Scoring
    candidates: int

    @property
    def needs_projections(self) -> bool:
        return self.scoring in (Scoring.ASYMMETRIC, Scoring.RERANK_ASYMMETRIC)

    @property
    def needs_features(self) -> bool:
        return self.scoring is Scoring.RERANK_FEATURES

    @property
    def reranks(self) -> bool:
        return self.scoring in (Scoring.RERANK_ASYMMETRIC, Scoring.RERANK_FEATURES)


def plan(options: SearchOptions) -> ScoringPlan:
    """Returns how to score a search. Raises InvalidRequest if score and rerank cannot be combined."""
    k, rerank = options.offset + options.k, options.rerank
    if options.score == "asymmetric":
        if rerank != "none":
            raise InvalidRequest(
                f"rerank: {rerank} requires score hamming; score asymmetric already ranks all rows"
            )
        return ScoringPlan(Scoring.ASYMMETRIC, k)
    if rerank == "none":
        return ScoringPlan(Scoring.HAMMING, k)
    scoring = Scoring.RERANK_ASYMMETRIC if rerank == "asymmetric" else Scoring.RERANK_FEATURES
    return ScoringPlan(scoring, max(k, min(MAX_K, k * options.oversampling)))


def check(plan: ScoringPlan, indexing: Indexing, queries: int) -> None:
    """Raises InvalidRequest if the collection cannot be searched by this plan for this number of queries."""
    if not plan.needs_features:
        return
    if not indexing.keeps_features:
        raise NotInLayout("rerank: this collection stores no features; create one with features int8 or float16")
    compared = queries * plan.candidates * indexing.feature_width
    if compared > MAX_COMPARED or queries * indexing.feature_width * 4 > MAX_FEATURE_BYTES:
        raise InvalidRequest(
            f"rerank: {queries:,} queries with {plan.candidates:,} candidates of {indexing.feature_width:,}"
            " features are too much at once; ask for fewer queries, hits, or a smaller oversampling"
        )


def weights(projections: npt.NDArray[np.float32], code: bytes) -> npt.NDArray[np.uint16]:
    """Returns a weight for each bit of a query's code, uint16 (bits,): the scaled magnitude of the bit's
    projection. The weights are integers, so that their sums are equal on every shard.

    Raises:
        InvalidRequest: If the signs of the projections do not match the code's bits.
    """
    bits = np.unpackbits(np.frombuffer(code, np.uint8)).view(np.bool_)
    if ((projections > 0) != bits).any():
        raise InvalidRequest(
            "projections: their signs do not match the code's bits; send the projections of the code"
        )
    sizes = np.abs(projections.astype(np.float64))
    top = float(sizes.max(initial=0.0)) or 1.0
    return np.rint(sizes * (_MAX_WEIGHT / top)).astype(np.uint16)


def inputs(plan: ScoringPlan, codes: Codes, projections: Sequence[npt.NDArray[np.float32] | None],
           features: Sequence[npt.NDArray[np.float32] | None]) -> Inputs | None:  # fmt: skip
    """Returns what the shards need besides the codes, one row per query; None if they need nothing else.

    Args:
        plan: How to score.
        codes: uint8 (n, bits/8).
        projections: Each query's projections, (bits,), if it has them.
        features: Each query's features, (width,), if it has them.

    Raises:
        InvalidRequest: If a query lacks what the plan needs.
    """
    if plan.needs_projections:
        if any(own is None for own in projections):
            raise InvalidRequest(
                "projections: are missing; an asymmetric score needs an image, or a code with its projections"
                " (a stored record has only its code)"
            )
        return np.stack(
            [weights(own, code.tobytes()) for own, code in zip(projections, codes, strict=True) if own is not None]
        )
    if plan.needs_features:
        if any(own is None for own in features):
            raise InvalidRequest(
                "features: are missing; this rerank needs an image, a key, or a code with its features"
            )
        return np.stack([own for own in features if own is not None])
    return None
