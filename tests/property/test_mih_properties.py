"""Multi-index hashing gives the scan's answer, whether buckets, the scan or a mix of both serve the queries."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.kernel import CodeMatrix, Matches, Selection, chunk, mih, search
from tests.oracle import random_codes

seeds = st.integers(0, 2**32 - 1)
# The buckets' share of a scan's time: none, about as much as these few rows need, unlimited.
shares = st.sampled_from([0.0, 20.0, 1e12, 1e12])


def near(rng: np.random.Generator, codes: np.ndarray, count: int, most: int) -> np.ndarray:
    """Copies of some codes with up to `most` bits flipped."""
    bits = np.unpackbits(codes[rng.integers(0, len(codes), count)], axis=1)
    for row in bits:
        row[rng.choice(len(row), rng.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def answer(matches: Matches) -> list[list[tuple[int, int, int]]]:
    return [
        list(
            zip(
                matches.distances[q, :count].tolist(),
                matches.ids[q, :count].tolist(),
                matches.numbers[q, :count].tolist(),
                strict=True,
            )
        )
        for q, count in enumerate(matches.counts)
    ]


@settings(max_examples=300)
@given(
    seeds,
    st.sampled_from([64, 128, 192, 256, 512]),
    st.integers(1_000, 5_000),
    st.integers(1, 40),
    st.none() | st.integers(0, 10),
    st.integers(1, 6),
    st.none() | st.floats(0, 1),
    st.integers(1, 12),
    shares,
    st.just((0, 0)) | st.tuples(st.integers(0, 12), st.integers(0, 2**64 - 1)),
)
def test_buckets_and_scan_give_the_same_answer(
    seed: int,
    bits: int,
    n: int,
    k: int,
    max_distance: int | None,
    q: int,
    keep: float | None,
    spread: int,
    share: float,
    floor: tuple[int, int],
) -> None:
    rng = np.random.default_rng(seed)
    centres = random_codes(rng, 1 + n // 50, bits)
    codes, ids = near(rng, centres, n, spread), rng.integers(0, 2**64, n, np.uint64)
    doomed = np.flatnonzero(rng.random(n) < 0.2).astype(np.uint32)
    queries = near(rng, centres, q, spread)
    selection = None if keep is None else Selection(rng.random(n) < keep)
    with (
        mock.patch.object(chunk, "_MIN_CHUNK_ROWS", 1_024),
        mock.patch.object(chunk, "_MIN_CHUNK_BYTES", 8_192),
        mock.patch.object(mih, "SHARE", share),
    ):
        matrices = CodeMatrix(bits), CodeMatrix(bits, hashed=True)
        for matrix in matrices:
            matrix.append(codes[: n // 2], ids[: n // 2])
            matrix.append(codes[n // 2 :], ids[n // 2 :])
            matrix.delete(doomed)
        assert bool(matrices[1].view().chunks[0].buckets) == (n >= 1_024)
        options = {"max_distance": max_distance, "selection": selection, "floor": floor}
        plain, hashed = (matrix.scan(queries, k, **options) for matrix in matrices)
        assert answer(hashed) == answer(plain)


@pytest.mark.parametrize("bits", [16, 72, 32, 576, 8192])
def test_a_width_without_hashing_support_is_rejected(bits: int) -> None:
    with pytest.raises(ValueError, match="multiple of 64 from 64 to 512"):
        CodeMatrix(bits, hashed=True)


def test_close_neighbours_are_found_by_the_buckets() -> None:
    """The scan is patched to fail, so the buckets alone must find the rows."""
    rng = np.random.default_rng(0)
    rows = chunk.chunk_rows(2)
    matrix = CodeMatrix(128, hashed=True)
    codes = random_codes(rng, rows, 128)
    matrix.append(codes, np.arange(rows, dtype=np.uint64))
    with mock.patch.object(search, "scan_spans", side_effect=AssertionError):
        for flipped in range(9):
            query = codes[77].copy()
            query[:flipped] ^= 1
            assert matrix.search(query[None], 1)[1].tolist() == [[77]]
            assert answer(matrix.scan(query[None], 10, max_distance=8)) == [[(flipped, 77, 77)]]


def test_an_older_view_does_not_see_later_changes() -> None:
    rng = np.random.default_rng(0)
    with mock.patch.object(chunk, "_MIN_CHUNK_ROWS", 1_024), mock.patch.object(chunk, "_MIN_CHUNK_BYTES", 8_192):
        matrix = CodeMatrix(64, hashed=True)
        codes = random_codes(rng, 1_024, 64)
        matrix.append(codes[:1_000], np.arange(1_000, dtype=np.uint64))
        view = matrix.view()
        matrix.append(codes[1_000:], np.arange(1_000, 1_024, dtype=np.uint64))
        matrix.delete(np.array([5], np.uint32))
        assert answer(matrix.scan(codes[1_023:], 1))[0][0] == (0, 1_023, 1_023)
        assert answer(matrix.scan(codes[1_023:], 1, view=view))[0][0][0] > 0
        assert answer(matrix.scan(codes[5:6], 1, view=view)) == [[(0, 5, 5)]]
        assert answer(matrix.scan(codes[5:6], 1))[0][0][0] > 0
