"""The kernel against the NumPy oracle, in edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from shard.kernel import CodeMatrix, ScanStopped, Selection, count_selected, selected_rows
from shard.kernel.chunk import chunk_rows
from shard.kernel.simd import LANES
from tests.oracle import nearest, random_codes

WIDTHS = [16, 24, 56, 64, 72, 128, 192, 256, 320, 448, 512, 1024, 2048, 4096, 8184, 8192]


def hits(matrix: CodeMatrix, queries: np.ndarray, k: int, **options) -> list[list[tuple[int, int]]]:
    matches = matrix.scan(queries, k, **options)
    return [
        list(
            zip(
                matches.distances[q, :count].tolist(),
                matches.ids[q, :count].tolist(),
                strict=True,
            )
        )
        for q, count in enumerate(matches.counts)
    ]


def filled(bits: int, n: int, seed: int = 0) -> tuple[CodeMatrix, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes, ids = random_codes(rng, n, bits), rng.integers(0, 2**64, n, np.uint64)
    matrix = CodeMatrix(bits)
    matrix.append(codes, ids)
    return matrix, codes, ids


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width_matches_the_oracle(bits: int) -> None:
    matrix, codes, ids = filled(bits, 3_000)
    queries = random_codes(np.random.default_rng(1), 5, bits)
    distances, found = matrix.search(queries, k=20)
    assert distances.dtype == np.uint16
    assert found.dtype == np.uint64
    assert distances.shape == found.shape == (5, 20)
    for q in range(5):
        assert list(zip(distances[q].tolist(), found[q].tolist(), strict=True)) == nearest(
            codes, ids, queries[q], 20
        )


@pytest.mark.parametrize("n", [1, LANES - 1, LANES, LANES + 1, chunk_rows(1) + 3])
def test_rows_at_block_and_chunk_boundaries_are_found(n: int) -> None:
    matrix, codes, ids = filled(64, n)
    assert hits(matrix, codes[-1:], 3) == [nearest(codes, ids, codes[-1], 3)]


def test_k_above_the_number_of_rows_returns_all_rows() -> None:
    matrix, codes, _ = filled(32, 7)
    distances, ids = matrix.search(codes[:2], k=10_000)
    assert distances.shape == ids.shape == (2, 7)


def test_an_empty_matrix_returns_no_rows() -> None:
    distances, ids = CodeMatrix(64).search(np.zeros((3, 8), np.uint8), k=5)
    assert distances.shape == ids.shape == (3, 0)


def test_no_queries_return_no_answers() -> None:
    matrix, _, _ = filled(64, 10)
    distances, _ = matrix.search(np.zeros((0, 8), np.uint8), k=5)
    assert distances.shape == (0, 5)


def test_ties_are_broken_by_id() -> None:
    matrix = CodeMatrix(64)
    ids = np.random.default_rng(0).permutation(5_000).astype(np.uint64)
    matrix.append(np.zeros((5_000, 8), np.uint8), ids)
    _, found = matrix.search(np.ones((1, 8), np.uint8), k=100)
    assert found[0].tolist() == list(range(100))


def test_ids_use_all_64_bits() -> None:
    matrix = CodeMatrix(16)
    ids = np.array([2**64 - 1, 0, 2**63, 2**63 - 1], np.uint64)
    matrix.append(np.zeros((4, 2), np.uint8), ids)
    assert matrix.search(np.zeros((1, 2), np.uint8), k=4)[1][0].tolist() == sorted(ids.tolist())


def test_max_distance_excludes_farther_rows() -> None:
    matrix, codes, ids = filled(64, 2_000)
    for limit in (0, 20, 25, 64, 1_000_000):
        assert hits(matrix, codes[:3], 50, max_distance=limit) == [
            nearest(codes, ids, query, 50, limit) for query in codes[:3]
        ]


def test_deleted_rows_are_not_found() -> None:
    matrix, codes, ids = filled(64, 10_000)
    gone = np.random.default_rng(2).choice(10_000, 6_000, replace=False).astype(np.uint32)
    assert matrix.delete(gone) == 6_000
    assert matrix.delete(gone) == 0
    assert matrix.delete(np.array([123_456], np.uint32)) == 0
    kept = np.setdiff1d(np.arange(10_000), gone)
    assert len(matrix) == 4_000
    assert hits(matrix, codes[:4], 30) == [nearest(codes[kept], ids[kept], query, 30) for query in codes[:4]]


@pytest.mark.parametrize("options", [{}, {"floor": (105, 2**62)}, {"max_distance": 110}, {"threads": 3}])
def test_deletions_of_the_nearest_rows_leave_the_next_ones(options: dict) -> None:
    """Rows that the search must not return, all nearer than the others and each in a tile of its own, do not bound
    the distance of those that it must."""
    rng = np.random.default_rng(3)
    query = random_codes(rng, 1, 256)
    codes, ids = random_codes(rng, 60_000, 256), rng.integers(0, 2**64, 60_000, np.uint64)
    gone = np.arange(0, 60_000, 2_000, dtype=np.uint32)
    codes[gone] = query
    matrix = CodeMatrix(256)
    matrix.append(codes, ids)
    before = matrix.view()
    kept = np.setdiff1d(np.arange(60_000), gone)
    selection = Selection(np.isin(np.arange(60_000), kept))
    assert hits(matrix, query, 10, selection=selection) == [nearest(codes[kept], ids[kept], query[0], 10)]
    matrix.delete(gone)
    floor = options.get("floor", (0, 0))
    for view, rows in ((before, np.arange(60_000)), (matrix.view(), kept)):
        for k in (1, 10, 25, 40, 300):
            ordered = nearest(codes[rows], ids[rows], query[0], 60_000, options.get("max_distance", 256))
            expected = [[row for row in ordered if row >= floor][:k]]
            assert hits(matrix, query, k, view=view, **options) == expected


@pytest.mark.parametrize("is_compacted", [False, True])
def test_near_rows_of_a_later_chunk_replace_farther_ones_with_smaller_ids(is_compacted: bool) -> None:
    """The first chunk fills a part of the heap. The minima of the second one bound the k-th distance below the
    worst in the heap, and all its near rows are at this bound."""
    rng = np.random.default_rng(4)
    first, n = chunk_rows(4), chunk_rows(4) + 60_000
    codes, ids = random_codes(rng, n, 256), np.arange(n, dtype=np.uint64)
    near, nearer = np.arange(0, 5_000, 1_000), np.arange(first, first + 30_000, 256)
    for rows, distance in ((near, 20), (nearer, 10)):
        codes[rows] = np.packbits(np.arange(256) < distance)
    matrix = CodeMatrix(256)
    matrix.append(codes, ids)
    kept = np.arange(n)
    if is_compacted:
        gone = np.setdiff1d(np.arange(first), near)
        matrix.delete(gone.astype(np.uint32))
        kept = np.setdiff1d(kept, gone)
        assert matrix.view().rows == (5, 60_000)
    query = np.zeros((1, 32), np.uint8)
    for k in (36, 60, 117, 118, 121):
        expected = nearest(codes[kept], ids[kept], query[0], k, 30)
        assert hits(matrix, query, k, max_distance=30) == [expected]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_with_more_minima_than_are_kept_at_once_matches_the_oracle(threads: int) -> None:
    matrix, codes, ids = filled(512, 40_000)
    queries = random_codes(np.random.default_rng(5), 12_000, 512)
    found = hits(matrix, queries, 12, threads=threads)
    for q in range(0, 12_000, 1_000):
        assert found[q] == nearest(codes, ids, queries[q], 12)


def test_deletions_free_memory() -> None:
    rows = chunk_rows(4)
    matrix, _, _ = filled(256, rows + 1)
    full = matrix.memory_bytes
    matrix.delete(np.arange(rows, dtype=np.uint32))
    assert matrix.memory_bytes < full / 50


def test_memory_per_row_is_at_most_the_code_and_16_bytes() -> None:
    for bits in (64, 256, 2048):
        matrix, _, _ = filled(bits, 20_000)
        assert matrix.memory_bytes <= (20_000 + LANES) * (bits // 8 + 16)


def test_a_batch_of_queries_matches_the_oracle() -> None:
    matrix, codes, ids = filled(192, 20_000)
    assert hits(matrix, codes[:29], 30) == [nearest(codes, ids, query, 30) for query in codes[:29]]


def test_many_rows_within_the_bound_in_one_tile_are_all_found() -> None:
    matrix, codes, ids = filled(64, 4_000)
    near = codes.copy()
    near[:, 1:] = codes[0, 1:]
    matrix.append(near, ids)
    everything, every_id = np.concatenate([codes, near]), np.concatenate([ids, ids])
    assert hits(matrix, codes[:9], 3_000) == [nearest(everything, every_id, query, 3_000) for query in codes[:9]]


def test_a_view_is_not_affected_by_later_changes() -> None:
    matrix, codes, ids = filled(64, 5_000)
    view = matrix.view()
    matrix.replace(np.arange(4_000, dtype=np.uint32), codes[:10] ^ 0xFF, ids[:10])
    assert hits(matrix, codes[:2], 5, view=view) == [nearest(codes, ids, query, 5) for query in codes[:2]]
    assert len(matrix) == 1_010


@pytest.mark.parametrize("step", [1, 2, 7, 40, 1_999, 3_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_selection_limits_the_scan_to_its_rows(step: int, threads: int) -> None:
    matrix, codes, ids = filled(64, 3_000)
    mask = np.zeros(2_000, np.bool_)
    mask[step - 1 :: step] = True
    kept = np.flatnonzero(mask)
    selection = Selection(mask)
    for _ in range(2):
        assert hits(matrix, codes[:13], 12, selection=selection, threads=threads) == [
            nearest(codes[kept], ids[kept], query, 12) for query in codes[:13]
        ]


def test_a_selection_remains_valid_as_the_matrix_changes() -> None:
    matrix, codes, ids = filled(64, 10_000)
    mask = np.arange(10_000) % 50 == 0
    selection = Selection(mask)
    assert hits(matrix, codes[:1], 5, selection=selection) == [nearest(codes[mask], ids[mask], codes[0], 5)]
    matrix.append(codes[:100], ids[:100])
    assert hits(matrix, codes[:1], 5, selection=selection) == [nearest(codes[mask], ids[mask], codes[0], 5)]
    longer = selection.extended(np.ones(100, np.bool_))
    both, both_ids = np.concatenate([codes[mask], codes[:100]]), np.concatenate([ids[mask], ids[:100]])
    assert hits(matrix, codes[:1], 5, selection=longer) == [nearest(both, both_ids, codes[0], 5)]
    matrix.delete(np.arange(5_000, dtype=np.uint32))
    half = mask & (np.arange(10_000) >= 5_000)
    left, left_ids = np.concatenate([codes[half], codes[:100]]), np.concatenate([ids[half], ids[:100]])
    assert hits(matrix, codes[:1], 5, selection=longer) == [nearest(left, left_ids, codes[0], 5)]


@pytest.mark.parametrize("pieces", [[0, 1, 7, 8, 9, 3], [13, 0, 0, 27], [1] * 20])
def test_a_selection_extended_in_steps_equals_the_whole_mask(pieces: list[int]) -> None:
    mask = np.random.default_rng(0).random(sum(pieces)) < 0.5
    matrix, codes, ids = filled(64, len(mask))
    selection, start = Selection(np.zeros(0, np.bool_)), 0
    for piece in pieces:
        selection = selection.extended(mask[start : start + piece])
        start += piece
        kept = np.flatnonzero(mask[:start])
        assert selection.end == start
        assert hits(matrix, codes[:1], 99, selection=selection) == [nearest(codes[kept], ids[kept], codes[0], 99)]


def test_an_empty_selection_finds_nothing() -> None:
    matrix, codes, _ = filled(64, 3_000)
    for mask in (np.zeros(0, np.bool_), np.zeros(3_000, np.bool_)):
        assert hits(matrix, codes[:1], 12, selection=Selection(mask)) == [[]]


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_threads_do_not_change_the_answer(threads: int) -> None:
    matrix, codes, ids = filled(128, 20_000)
    assert hits(matrix, codes[:3], 40, threads=threads) == [nearest(codes, ids, query, 40) for query in codes[:3]]


def test_non_contiguous_input_is_accepted() -> None:
    rng = np.random.default_rng(0)
    wide = random_codes(rng, 400, 128)
    codes, ids = wide[::2, ::2], np.arange(400, dtype=np.uint64)[::2]
    matrix = CodeMatrix(64)
    matrix.append(codes, ids)
    assert hits(matrix, codes[::-3], 5) == [nearest(codes, ids, query, 5) for query in codes[::-3]]


def test_a_scan_stops_on_request() -> None:
    matrix, codes, _ = filled(64, 10)
    with pytest.raises(ScanStopped):
        matrix.scan(codes[:1], 1, should_stop=lambda: True)


@pytest.mark.parametrize("bits", [0, 8, 17, 8200])
def test_an_invalid_width_is_rejected(bits: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        CodeMatrix(bits)


@pytest.mark.parametrize(
    "codes",
    [np.zeros((2, 7), np.uint8), np.zeros((2, 9), np.uint8), np.zeros((2, 8), np.int8), np.zeros(8, np.uint8)],
)
def test_codes_of_the_wrong_shape_are_rejected_without_effect(codes: np.ndarray) -> None:
    matrix, _, _ = filled(64, 10)
    with pytest.raises(ValueError, match="codes: need uint8"):
        matrix.append(codes, np.arange(len(codes), dtype=np.uint64))
    with pytest.raises(ValueError, match="codes: need uint8"):
        matrix.search(codes, 1)
    assert len(matrix) == 10


def test_numbers_must_increase() -> None:
    matrix, codes, ids = filled(64, 10)
    for numbers in ([9, 10], [11, 11], [12, 11]):
        with pytest.raises(ValueError, match="numbers: must increase"):
            matrix.append(codes[:2], ids[:2], np.array(numbers, np.uint32))
    assert len(matrix) == 10


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_selected_rows_are_the_live_rows_of_the_mask(share: float) -> None:
    rng = np.random.default_rng(1)
    matrix = CodeMatrix(bits=64)
    ids = rng.integers(0, 2**64, 5_000, np.uint64)
    matrix.append(rng.integers(0, 256, (5_000, 8), np.uint8), ids)
    earlier = matrix.view()
    dead = rng.choice(5_000, 600, replace=False).astype(np.uint32)
    matrix.delete(np.sort(dead))
    mask = rng.random(4_000) < share
    is_live = np.ones(5_000, np.bool_)
    is_live[dead] = False
    for view, live in ((earlier, np.ones(5_000, np.bool_)), (matrix.view(), is_live)):
        wanted = np.flatnonzero(live & np.concatenate([mask, np.zeros(1_000, np.bool_)]))
        found, numbers = selected_rows(view, Selection(mask))
        assert sorted(numbers.tolist()) == wanted.tolist()
        assert np.array_equal(found, ids[numbers])
        assert count_selected(view, Selection(mask)) == len(wanted)
        first = int(np.median(ids))
        assert (
            sorted(selected_rows(view, None, first)[1].tolist()) == np.flatnonzero(live & (ids >= first)).tolist()
        )
        assert count_selected(view, None) == live.sum()
