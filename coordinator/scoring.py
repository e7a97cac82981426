"""Owns how hits are scored beyond their Hamming distance: what the shards need for that, and the final order.

The shards rank candidates, the coordinator chooses them: the nearest by Hamming distance over all partitions, cut
there by the total order. So neither candidates nor answer depend on the number of shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.catalog import NotInLayout
from coordinator.merge import QueryHits
from lookalike.cluster.scan import Codes, Inputs, Scoring
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.records import MAX_K

# Features that one request may have compared, some seconds' work; and bytes of query features that go to each
# shard.
MAX_COMPARED = 300_000_000
MAX_FEATURE_BYTES = 8 * 1024 * 1024
_MAX_WEIGHT = np.iinfo(np.uint16).max


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """scoring: what the shards do. candidates: hits that they are asked for per query, k for no rerank."""

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


def plan(score: str, rerank: str, k: int, oversampling: int) -> Plan:
    """score: "hamming" or "asymmetric"; rerank: "none", "asymmetric" or "features". Raises InvalidRequest for two
    that do not go together."""
    if score == "asymmetric":
        if rerank != "none":
            raise InvalidRequest(
                f"rerank: {rerank} goes with score hamming; score asymmetric compares all rows already"
            )
        return Plan(Scoring.ASYMMETRIC, k)
    if rerank == "none":
        return Plan(Scoring.HAMMING, k)
    scoring = Scoring.RERANK_ASYMMETRIC if rerank == "asymmetric" else Scoring.RERANK_FEATURES
    return Plan(scoring, max(k, min(MAX_K, k * oversampling)))


def check(plan: Plan, indexing: Indexing, queries: int) -> None:
    """Raise InvalidRequest unless the collection can be searched by this plan, for so many queries at once."""
    if not plan.needs_features:
        return
    if not indexing.keeps_features:
        raise NotInLayout("rerank: this collection keeps no features; make one with features int8 or float16")
    compared = queries * plan.candidates * indexing.feature_width
    if compared > MAX_COMPARED or queries * indexing.feature_width * 4 > MAX_FEATURE_BYTES:
        raise InvalidRequest(
            f"rerank: {queries:,} queries with {plan.candidates:,} candidates of {indexing.feature_width:,}"
            " features are too much at once; ask for fewer queries, hits, or a smaller oversampling"
        )


def weights(projections: npt.NDArray[np.float32], code: bytes) -> npt.NDArray[np.uint16]:
    """How sure a query is of each bit, in whole numbers that every shard adds up alike: uint16 (bits,), the size
    of its projections. Raises InvalidRequest unless their signs are the code's bits."""
    bits = np.unpackbits(np.frombuffer(code, np.uint8)).view(np.bool_)
    if ((projections > 0) != bits).any():
        raise InvalidRequest("projections: have other signs than the code's bits; send those that made the code")
    sizes = np.abs(projections.astype(np.float64))
    top = float(sizes.max(initial=0.0)) or 1.0
    return np.rint(sizes * (_MAX_WEIGHT / top)).astype(np.uint16)


def inputs(plan: Plan, codes: Codes, projections: Sequence[npt.NDArray[np.float32] | None],
           features: Sequence[npt.NDArray[np.float32] | None]) -> Inputs | None:  # fmt: skip
    """What the shards need per query, a row each. codes: uint8 (n, bits/8). A query without what the plan needs is
    an InvalidRequest."""
    if plan.needs_projections:
        if any(own is None for own in projections):
            raise InvalidRequest(
                "projections: are missing; an asymmetric score needs an image, or a code with its projections"
                " (of a stored record there is the code alone)"
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


def reordered(hits: QueryHits) -> QueryHits:
    """The hits by (rank, id) instead of by distance; those that agree in both stay in order."""
    order = np.lexsort((np.array(hits.ids, np.uint64), np.array(hits.ranks)))
    return hits.taken(order.tolist())
