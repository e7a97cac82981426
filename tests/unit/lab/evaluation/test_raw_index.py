"""The linear index of raw features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lab.evaluation.raw_index import RawIndex


def vectors_with_ties(n: int, width: int = 6) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Vectors of small whole numbers, so that distances are exact and often equal; ids are unordered."""
    random = np.random.default_rng(n)
    vectors = random.integers(-1, 2, size=(n, width)).astype(np.float32)
    return vectors, random.permutation(10 * n).astype(np.uint64)[:n] + np.uint64(2**63)


@pytest.mark.parametrize("k", [1, 3, 10, 199, 200, 500])
def test_raw_index_equals_brute_force(k: int) -> None:
    vectors, ids = vectors_with_ties(200)
    queries = vectors_with_ties(17)[0]
    once, in_parts = RawIndex(6), RawIndex(6)
    once.append(vectors, ids)
    for start, stop in ((0, 0), (0, 70), (70, 71), (71, 200)):
        in_parts.append(vectors[start:stop], ids[start:stop])
    assert len(once) == len(in_parts) == 200
    assert once.index_bytes == in_parts.index_bytes == vectors.nbytes
    distances, found = once.search(queries, k)
    assert found.shape == distances.shape == (17, min(k, 200))
    for part, whole in zip(in_parts.search(queries, k), (distances, found), strict=True):
        assert np.array_equal(part, whole)
    for query, row, values in zip(queries, found.tolist(), distances, strict=True):
        exact = {int(i): float(((query - vector) ** 2).sum()) for vector, i in zip(vectors, ids, strict=True)}
        expected = sorted(exact, key=lambda i: (exact[i], i))[:k]
        assert row == expected
        assert np.allclose(values, np.sqrt([exact[i] for i in expected]), atol=1e-6)


def test_an_empty_raw_index_finds_nothing() -> None:
    distances, ids = RawIndex(6).search(np.ones((3, 6), np.float32), 5)
    assert distances.shape == ids.shape == (3, 0)
