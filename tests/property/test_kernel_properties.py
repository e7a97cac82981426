"""The kernel on arbitrary input: against the oracle, and metamorphic properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.kernel import CodeMatrix, Selection
from tests.oracle import nearest, random_codes

seeds = st.integers(0, 2**32 - 1)
widths = st.integers(2, 40).map(lambda code_bytes: code_bytes * 8)


def clustered(rng: np.random.Generator, n: int, bits: int) -> np.ndarray:
    """Few distinct codes, so that most distances tie."""
    return random_codes(rng, max(1, n // 9), bits)[rng.integers(0, max(1, n // 9), n)]


def answer(matrix: CodeMatrix, queries: np.ndarray, k: int) -> list[list[tuple[int, int]]]:
    distances, ids = matrix.search(queries, k)
    return [list(zip(d.tolist(), i.tolist(), strict=True)) for d, i in zip(distances, ids, strict=True)]


def build(codes: np.ndarray, ids: np.ndarray) -> CodeMatrix:
    matrix = CodeMatrix(codes.shape[1] * 8)
    matrix.append(codes, ids)
    return matrix


@settings(max_examples=150)
@given(seeds, widths, st.integers(0, 5_000), st.integers(1, 300), st.integers(1, 6))
def test_answers_match_the_oracle(seed: int, bits: int, n: int, k: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    codes, ids = clustered(rng, n, bits), rng.integers(0, 2**64, n, np.uint64)
    queries = clustered(rng, q, bits)
    assert answer(build(codes, ids), queries, k) == [nearest(codes, ids, query, k) for query in queries]


@settings(max_examples=60)
@given(seeds, widths, st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), min_size=1, max_size=8))
def test_appends_and_deletions_in_any_order_match_the_oracle(
    seed: int, bits: int, steps: list[tuple[int, float]]
) -> None:
    rng = np.random.default_rng(seed)
    matrix = CodeMatrix(bits)
    codes, ids, alive = np.zeros((0, bits // 8), np.uint8), np.zeros(0, np.uint64), np.zeros(0, np.bool_)
    for count, share in steps:
        doomed = np.flatnonzero(alive & (rng.random(len(alive)) < share)).astype(np.uint32)
        new = clustered(rng, count, bits)[:count]
        new_ids = rng.integers(0, 2**64, count, np.uint64)
        assert matrix.replace(doomed, new, new_ids) == len(doomed)
        alive[doomed] = False
        codes, ids = np.concatenate([codes, new]), np.concatenate([ids, new_ids])
        alive = np.concatenate([alive, np.ones(count, np.bool_)])
        query = random_codes(rng, 1, bits)
        assert answer(matrix, query, 25) == [nearest(codes[alive], ids[alive], query[0], 25)]
        assert len(matrix) == alive.sum()


@settings(max_examples=60)
@given(seeds, widths, st.integers(1, 6))
def test_the_number_of_shards_does_not_change_the_answer(seed: int, bits: int, shards: int) -> None:
    rng = np.random.default_rng(seed)
    codes, ids = clustered(rng, 2_000, bits), rng.permutation(2_000).astype(np.uint64)
    query = codes[:1]
    owner = rng.integers(0, shards, len(codes))
    parts = [answer(build(codes[owner == s], ids[owner == s]), query, 30)[0] for s in range(shards)]
    assert sorted(hit for part in parts for hit in part)[:30] == answer(build(codes, ids), query, 30)[0]


@settings(max_examples=40)
@given(seeds, widths)
def test_flipping_the_same_bits_in_all_codes_does_not_change_the_answer(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    codes, ids = clustered(rng, 1_000, bits), rng.permutation(1_000).astype(np.uint64)
    mask = random_codes(rng, 1, bits)
    assert answer(build(codes ^ mask, ids), codes[:2] ^ mask, 40) == answer(build(codes, ids), codes[:2], 40)


@settings(max_examples=40)
@given(seeds, widths)
def test_permuting_bit_positions_does_not_change_the_answer(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    codes, ids = clustered(rng, 1_000, bits), rng.permutation(1_000).astype(np.uint64)
    order = rng.permutation(bits)
    permuted = np.packbits(np.unpackbits(codes, axis=1)[:, order], axis=1)
    assert answer(build(permuted, ids), permuted[:2], 40) == answer(build(codes, ids), codes[:2], 40)


@settings(max_examples=20)
@given(seeds, st.integers(1, 200))
def test_equal_codes_are_ordered_by_id(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 2**64, 30_000, np.uint64)
    matrix = build(np.full((30_000, 8), 7, np.uint8), ids)
    assert [i for _, i in answer(matrix, np.zeros((1, 8), np.uint8), k)[0]] == np.sort(ids)[:k].tolist()


@settings(max_examples=100)
@given(seeds, st.sampled_from([64, 72, 256]), st.integers(1, 3_000), st.integers(1, 300), st.booleans())
def test_pages_from_a_floor_cover_all_rows_in_order(
    seed: int, bits: int, n: int, k: int, is_filtered: bool
) -> None:
    rng = np.random.default_rng(seed)
    codes, ids = clustered(rng, n, bits), rng.permutation(n).astype(np.uint64) * np.uint64(2**50 + 1)
    query = clustered(rng, 1, bits)
    mask = rng.random(n) < rng.choice([0.01, 0.5]) if is_filtered else np.ones(n, np.bool_)
    selection = Selection(mask) if is_filtered else None
    expected = nearest(codes[mask], ids[mask], query[0], n)
    matrix, found = build(codes, ids), list[tuple[int, int]]()
    floor = (0, 0)
    for _ in range(20):
        matches = matrix.scan(query, k, floor=floor, selection=selection)
        count = int(matches.counts[0])
        page = list(zip(matches.distances[0, :count].tolist(), matches.ids[0, :count].tolist(), strict=True))
        found += page
        if count < min(k, n):
            break
        floor = page[-1][0], page[-1][1] + 1
    assert found == expected[: len(found)]
    assert count == min(k, n) or found == expected
