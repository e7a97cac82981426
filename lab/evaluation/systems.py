"""Owns the systems that an evaluation compares: raw features, and the codes of every hash method. Each system is a
function that computes the distances of queries to the indexed images."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from encoder.hashing import Features, LinearHash, normalised
from lab import fitting
from lab.evaluation.rankings import Distances
from lab.training.loop import Schedule
from lab.training.recipes import CSQ, Recipe, hash_of, schedule_for, train_head

METHODS = (*fitting.METHODS, CSQ)
RAW = "raw"
HAMMING, ASYMMETRIC = "hamming", "asymmetric"
COSINE, EUCLIDEAN = "cosine", "euclidean"

Labels = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class Codes:
    """Codes that were made elsewhere.

    Attributes:
        name: What made them.
        indexed: uint8 (n, bits/8): the codes of the indexed images.
        queries: uint8 (q, bits/8): the codes of the queries.
    """

    name: str
    indexed: npt.NDArray[np.uint8]
    queries: npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Features and labels of a set.

    Attributes:
        indexed: float32 (n, width): features of the indexed images, ordered by the ids of their records.
        queries: float32 (q, width): features of the query images.
        sample: The features that hashes are fitted to: the indexed images', unless classes are held out.
        sample_labels: The labels of `sample`.
        features: A text that identifies the backbone that computed the features.
        codes: Codes that were made elsewhere; None if there are none. With codes alone, features have no values.
    """

    indexed: Features
    queries: Features
    indexed_labels: Labels
    query_labels: Labels
    sample: Features
    sample_labels: Labels
    features: str
    codes: Codes | None = None

    @property
    def has_features(self) -> bool:
        """Whether there are features to compare and to fit hashes to."""
        return self.indexed.size > 0


def raw_distances(split: Split) -> dict[str, Distances]:
    """Cosine and Euclidean distances of raw features, without the terms and the square root that do not affect the
    ranking."""
    unit_indexed, unit_queries = normalised(split.indexed), normalised(split.queries)
    squares = np.einsum("nw,nw->n", split.indexed, split.indexed)
    return {
        COSINE: lambda rows: -(unit_queries[rows] @ unit_indexed.T),
        EUCLIDEAN: lambda rows: squares - 2 * (split.queries[rows] @ split.indexed.T),
    }


def fit(method: str, split: Split, bits: int, seed: int) -> LinearHash:
    """Fits a hash by one of METHODS to the split's sample."""
    if method != CSQ:
        return fitting.fit(method, split.sample, bits, seed, split.features)
    schedule: Schedule = schedule_for(False, None, None, None, seed)
    recipe = Recipe("", None, "", "hash", bits, False, schedule)
    head = train_head(split.sample, split.sample_labels, recipe, {}, torch.device("cpu"), None, lambda *_: None)
    return hash_of(head, split.features)


def hashed_distances(found: LinearHash, split: Split) -> dict[str, Distances]:
    """The Hamming distances of codes, and the asymmetric distances, which compare a query's projections with
    stored bits. The projections are rounded to integer weights as in a cluster, so that the same rows tie."""
    corners = _signs(found.projections(split.indexed) > 0)
    projections = found.projections(split.queries)
    signs = _signs(projections > 0)
    sizes = np.abs(projections.astype(np.float64))
    weights = signs * np.rint(sizes * (65_535 / np.maximum(sizes.max(axis=1, keepdims=True), 1e-300)))
    return {
        HAMMING: _hamming(signs, corners),
        ASYMMETRIC: lambda rows: -(weights[rows] @ corners.T),
    }


def code_distances(codes: Codes) -> Distances:
    """The Hamming distances of given codes."""
    queries, indexed = (_signs(np.unpackbits(side, axis=1) > 0) for side in (codes.queries, codes.indexed))
    return _hamming(queries, indexed)


def _signs(bits: npt.NDArray[np.bool_]) -> Features:
    return np.where(bits, np.float32(1), np.float32(-1))


def _hamming(queries: Features, indexed: Features) -> Distances:
    """The Hamming distances of codes whose bits are 1 and -1."""
    return lambda rows: ((queries.shape[1] - queries[rows] @ indexed.T) / 2).astype(np.uint16)
