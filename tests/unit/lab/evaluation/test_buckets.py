"""Hash tables over codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lab.evaluation.buckets import HashTables, Layout


def codes_near_each_other(n: int, bits: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    random = np.random.default_rng(n)
    bases = random.random((5, bits)) < 0.5
    flipped = random.random((n, bits)) < 0.1
    return np.packbits(bases[random.integers(5, size=n)] ^ flipped, axis=1)


@pytest.mark.parametrize("layout", [Layout(1, 4), Layout(3, 8), Layout(2, 13)], ids=str)
def test_candidates_are_exactly_those_that_share_a_bucket(layout: Layout) -> None:
    codes, queries = np.split(codes_near_each_other(175), [150])
    tables = HashTables(codes, layout, seed=4)
    random = np.random.RandomState(4)
    keys = [random.permutation(32)[: layout.key_bits] for _ in range(layout.tables)]
    stored = np.unpackbits(codes, axis=1)
    counts = set()
    for query in queries:
        bits = np.unpackbits(query)
        candidates = [
            row for row in range(150) if any(np.array_equal(stored[row][key], bits[key]) for key in keys)
        ]
        found, count = tables.search(query, 200)
        counts.add(count)
        distances = (stored != bits).sum(axis=1)
        expected = sorted(candidates, key=lambda row: (distances[row], row))
        assert count == len(candidates)
        assert found.tolist() == expected + [-1] * (200 - count)
        assert tables.search(query, 3)[0].tolist() == (expected + [-1] * 3)[:3]
    assert len(counts) > 3, "queries differ in their number of candidates"


@pytest.mark.parametrize("key_bits", [32, 99])
def test_one_table_keyed_by_all_bits_finds_exactly_the_equal_codes(key_bits: int) -> None:
    codes = np.repeat(codes_near_each_other(20), 3, axis=0)
    tables = HashTables(codes, Layout(1, key_bits))
    for query in (codes[0], codes[30], ~codes[0]):
        equal = np.flatnonzero((codes == query).all(axis=1)).tolist()
        found, count = tables.search(query, 10)
        assert count == len(equal)
        assert found.tolist() == (equal + [-1] * 10)[:10]
    assert tables.search(~codes[0], 10)[1] == 0
