"""Weighted distance on arbitrary input, against sums over bits in NumPy, with deletions, filters and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.kernel import CodeMatrix, ScanStopped, Selection, weighted
from tests.oracle import random_codes

seeds = st.integers(0, 2**32 - 1)
widths = st.integers(2, 40).map(lambda code_bytes: code_bytes * 8)


def totals(codes: np.ndarray, query: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (np.unpackbits(codes ^ query, axis=1) * weights.astype(np.int64)).sum(axis=1)


@settings(max_examples=120)
@given(
    seeds, widths, st.integers(0, 3_000), st.integers(1, 200), st.sampled_from([0, 1, 40, 65_535]), st.booleans()
)
def test_answers_match_sums_over_bits(seed: int, bits: int, n: int, k: int, top: int, limits: bool) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, n, bits)[rng.integers(0, max(1, n // 3), n)] if n else random_codes(rng, 0, bits)
    ids = rng.integers(0, max(2, n // 2), n, np.uint64)
    matrix = CodeMatrix(bits)
    matrix.append(codes, ids)
    matrix.delete(np.flatnonzero(rng.random(n) < 0.3).astype(np.uint32))
    view = matrix.view()
    # Later deletions and appends do not affect the view.
    matrix.delete(np.flatnonzero(rng.random(n) < 0.2).astype(np.uint32))
    matrix.append(random_codes(rng, 5, bits), np.zeros(5, np.uint64))
    query, weights = random_codes(rng, 1, bits)[0], rng.integers(0, top + 1, bits).astype(np.uint16)
    chosen = rng.random(n) < rng.choice([0.01, 0.5])
    selection = Selection(chosen) if limits else None
    max_distance = int(rng.integers(bits // 3, bits)) if limits else None
    found = weighted.scan(view, query, weights, k, max_distance=max_distance, selection=selection)

    distances = np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.int64)
    alive = _alive(view, n)
    kept = np.flatnonzero(alive & (chosen & (distances <= max_distance) if limits else True))
    sums = totals(codes, query, weights)
    ordered = sorted((int(sums[row]), int(ids[row]), int(row)) for row in kept)
    last = ordered[min(k, len(ordered)) - 1][:2] if ordered else None
    expected = [hit for place, hit in enumerate(ordered) if place < k or hit[:2] == last]
    assert list(zip(found.weighted.tolist(), found.ids.tolist(), found.numbers.tolist(), strict=True)) == expected
    assert found.distances.tolist() == [distances[row] for _, _, row in expected]


def _alive(view: object, n: int) -> np.ndarray:
    """Returns a mask of the first n numbers that are live in a view."""
    alive = np.zeros(n, np.bool_)
    for chunk, rows in zip(view.chunks, view.rows, strict=True):  # type: ignore[attr-defined]
        died = chunk.died[:rows]
        alive[chunk.numbers[:rows][(died == 0) | (died > view.epoch)]] = True  # type: ignore[attr-defined]
    return alive


@settings(max_examples=40)
@given(seeds, widths, st.integers(1, 2_000))
def test_weigh_accepts_row_numbers_in_any_order(seed: int, bits: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = CodeMatrix(bits)
    codes = random_codes(rng, n, bits)
    matrix.append(codes, np.arange(n, dtype=np.uint64))
    view = matrix.view()
    matrix.delete(np.arange(0, n, 2, dtype=np.uint32))
    query, weights = random_codes(rng, 1, bits)[0], rng.integers(0, 65_536, bits).astype(np.uint16)
    numbers = rng.permutation(n).astype(np.uint32)[: n // 2 + 1]
    found = weighted.weigh(view, numbers, query, weights)
    assert found.tolist() == totals(codes[numbers], query, weights).tolist()


@settings(max_examples=20)
@given(seeds, widths)
def test_equal_weights_rank_like_the_hamming_distance(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = CodeMatrix(bits)
    matrix.append(random_codes(rng, 500, bits), rng.permutation(500).astype(np.uint64))
    query = random_codes(rng, 1, bits)
    found = weighted.scan(matrix.view(), query[0], np.full(bits, 7, np.uint16), 50)
    distances, ids = matrix.search(query, 50)
    assert found.ids.tolist() == ids[0].tolist()
    assert (found.weighted == distances[0].astype(np.uint32) * 7).all()


def test_a_scan_of_many_chunks_matches_a_sort_and_stops_on_request() -> None:
    rng = np.random.default_rng(3)
    bits, n = 64, 600_000
    matrix = CodeMatrix(bits)
    codes = random_codes(rng, n, bits)
    matrix.append(codes, np.arange(n, dtype=np.uint64))
    view = matrix.view()
    assert len(view.chunks) > 1
    query, weights = random_codes(rng, 1, bits)[0], rng.integers(0, 65_536, bits).astype(np.uint16)
    found = weighted.scan(view, query, weights, 100)
    expected = np.argsort(totals(codes, query, weights), kind="stable")[:100]
    assert found.numbers.tolist() == expected.tolist()
    with pytest.raises(ScanStopped):
        weighted.scan(view, query, weights, 100, should_stop=lambda: True)
