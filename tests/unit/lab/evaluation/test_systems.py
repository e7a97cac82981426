"""The distances that are compared."""

from __future__ import annotations

import numpy as np

from encoder.hashing import drawn
from lab.evaluation.systems import Split, hashed_distances, raw_distances


def test_distances_rank_by_their_definitions() -> None:
    random = np.random.default_rng(0)
    indexed, queries = random.standard_normal((40, 32)), random.standard_normal((6, 32))
    labels = np.ones((40, 1), bool)
    split = Split(
        indexed.astype(np.float32), queries.astype(np.float32), labels, labels[:6],
        indexed.astype(np.float32), labels, "",
    )  # fmt: skip
    found = drawn(32, 64, 0)
    computed = raw_distances(split) | hashed_distances(found, split)
    lengths = np.linalg.norm(indexed, axis=1) * np.linalg.norm(queries, axis=1)[:, None]
    signs = [np.where(found.projections(side.astype(np.float32)) > 0, 1, -1) for side in (indexed, queries)]
    differing = (signs[1][:, None] != signs[0][None]).sum(-1)
    assert np.array_equal(computed["hamming"](slice(0, 6)), differing)
    expected = {
        "cosine": 1 - queries @ indexed.T / lengths,
        "euclidean": np.linalg.norm(queries[:, None] - indexed[None], axis=-1),
        "asymmetric": -(queries @ found.planes.T.astype(np.float64)) @ signs[0].T,
    }
    for name, distances in expected.items():
        order = computed[name](slice(0, 6)).argsort(axis=1)
        assert np.array_equal(order, distances.argsort(axis=1)), name
        part, whole = computed[name](slice(2, 4)), computed[name](slice(0, 6))[2:4]
        assert np.allclose(part, whole, rtol=1e-5, atol=1e-6), name
