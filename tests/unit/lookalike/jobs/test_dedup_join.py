"""Pairs of near codes, compared with all pairs computed in NumPy."""

from __future__ import annotations

from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike import Client, Hit
from lookalike.jobs.dedup import join
from lookalike.jobs.dedup.facts import FileFactsBuilder
from lookalike.jobs.dedup.groups import Group, Snapshot, find_groups
from lookalike.jobs.dedup.join import CANDIDATES_PER_CODE, distances, join_near, number_codes
from lookalike.jobs.dedup.roots import Roots

WIDTHS = [16, 64, 100 * 8, 256, 520]
Array = np.ndarray[Any, Any]


def planted(rng: np.random.Generator, rows: int, bits: int, max_distance: int) -> Array:
    """Random codes; half of them are copies of others with up to max_distance + 1 inverted bits."""
    codes = rng.integers(0, 2, (rows, bits), np.uint8)
    for row in range((rows + 1) // 2, rows):
        codes[row] = codes[rng.integers(0, row)]
        codes[row, rng.permutation(bits)[: rng.integers(0, max_distance + 2)]] ^= 1
    return np.packbits(codes, axis=1)


def all_distances(codes: Array) -> Array:
    return np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2, dtype=np.int64)


def components(near: Array) -> Array:
    """The smallest number of each connected component of a matrix."""
    labels = np.arange(len(near))
    while not np.array_equal(spread := np.where(near, labels, len(near)).min(axis=1, initial=len(near)), labels):
        labels = spread
    return labels


def connected(codes: Array, max_distance: int, budget: int = CANDIDATES_PER_CODE) -> Array:
    roots = Roots(len(codes))
    done: list[int] = []
    assert join_near(codes, max_distance, roots, budget, done.append)
    assert done == sorted(done)
    assert done[-1] == len(codes)
    return roots.all()


class Brute(Client):
    """Answers range searches by comparing all codes."""

    def __init__(self, codes: Array) -> None:
        self.codes = codes
        self.searched = 0

    def search_batch(self, **asked: Any) -> Any:
        self.searched += len(asked["codes"])
        queries = np.frombuffer(b"".join(asked["codes"]), np.uint8).reshape(-1, self.codes.shape[1])
        for query in queries:
            found = np.bitwise_count(self.codes ^ query).sum(axis=1, dtype=np.int64)
            order = np.argsort(found, kind="stable")[: asked["k"]]
            hits = [
                Hit(f"k{row}", int(found[row]), 0.0, {}) for row in order if found[row] <= asked["max_distance"]
            ]
            yield mock.Mock(hits=hits)

    def __del__(self) -> None:
        """Has no connection to close."""


def groups(codes: Array, max_distance: int, budget: int = CANDIDATES_PER_CODE) -> tuple[list[Group], int]:
    """The groups, and the number of range searches."""
    client = Brute(codes)
    facts = FileFactsBuilder()
    for row in range(len(codes)):
        facts.add(row, "{}")
    snapshot = Snapshot([f"k{row}" for row in range(len(codes))], codes, facts.build())
    with mock.patch.object(join, "CANDIDATES_PER_CODE", budget):
        return find_groups(cast(Client, client), "c", snapshot, max_distance), client.searched


def expected_groups(codes: Array, max_distance: int) -> list[Group]:
    apart = all_distances(codes)
    labels = components(apart <= max_distance)
    found = []
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: f"k{row}")
        if len(rows) > 1:
            keys = tuple(f"k{row}" for row in rows)
            found.append(Group(keys, tuple(apart[rows[0], rows].tolist()), tuple(rows)))
    return sorted(found, key=lambda group: (-len(group.keys), group.keys[0]))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("max_distance", [0, 1, 4, 9])
def test_near_codes_are_connected(bits: int, max_distance: int) -> None:
    codes = planted(np.random.default_rng(bits + max_distance), 600, bits, max_distance)
    assert np.array_equal(connected(codes, max_distance), components(all_distances(codes) <= max_distance))


@pytest.mark.parametrize("bits", WIDTHS)
def test_distances_close_to_the_width_connect_nearly_all(bits: int) -> None:
    codes = planted(np.random.default_rng(bits), 50, bits, 3)
    codes[1] = ~codes[0]
    for max_distance in (bits - 2, bits - 1):
        expected = components(all_distances(codes) <= max_distance)
        assert np.array_equal(connected(codes, max_distance), expected)
    pair = codes[:2]
    assert connected(pair, bits - 1).tolist() == [0, 1]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 80), code_bytes=st.integers(2, 40),
    max_distance=st.integers(0, 15), budget=st.sampled_from([-1, 0, 3, CANDIDATES_PER_CODE]),
)  # fmt: skip
def test_groups_are_those_of_all_pairs_with_every_budget(
    seed: int, rows: int, code_bytes: int, max_distance: int, budget: int
) -> None:
    codes = planted(np.random.default_rng(seed), rows, 8 * code_bytes, max_distance)
    assert groups(codes, max_distance, budget)[0] == expected_groups(codes, max_distance)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.lists(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=30)))
def test_roots_are_the_smallest_numbers_of_components(count: int, batches: list[list[tuple[int, int]]]) -> None:
    roots = Roots(count)
    near = np.eye(count, dtype=np.bool_)
    for batch in batches:
        pairs = np.array(batch, np.int64).reshape(-1, 2) % count
        roots.join(pairs[:, 0], pairs[:, 1])
        near[pairs[:, 0], pairs[:, 1]] = near[pairs[:, 1], pairs[:, 0]] = True
    assert np.array_equal(roots.all(), components(near))


@pytest.mark.parametrize("seed", range(3))
def test_long_paths_and_stars_are_connected(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(100_000)
    roots = Roots(100_000)
    roots.join(order[:50_000], np.append(order[1:50_000], order[0]))
    roots.join(np.full(50_000, order[-1]), order[50_000:])
    assert len(np.unique(roots.all())) == 2
    roots.join(order[:1], order[-1:])
    assert not roots.all().any()


def test_equal_codes_form_one_group_without_comparisons() -> None:
    codes = np.tile(np.array([7, 9], np.uint8), (2_000, 1))
    found, searches = groups(codes, 4, budget=0)
    assert [len(group.keys) for group in found] == [2_000]
    assert set(found[0].distances) == {0}
    assert searches == 0


def test_a_collection_without_neighbours_has_no_groups() -> None:
    assert groups(np.zeros((1, 8), np.uint8), 4) == ([], 0)
    assert groups(np.random.default_rng(1).integers(0, 256, (500, 32), np.uint8), 4) == ([], 0)


def test_alike_codes_above_the_budget_are_searched_for_in_the_cluster() -> None:
    rng = np.random.default_rng(5)
    alike = np.zeros((800, 32), np.uint8)
    # Only the last 64 bits differ, and half of these only together with their neighbours.
    alike[:, -8:-4] = rng.integers(0, 256, (800, 4), np.uint8)
    alike[:, -4:] = 255 * rng.integers(0, 2, (800, 2), np.uint8).repeat(2, axis=1)
    expected = expected_groups(alike, 4)
    assert groups(alike, 4) == (expected, 0)
    assert groups(alike, 4, budget=5) == (expected, 800)
    assert groups(planted(rng, 800, 256, 4), 4, budget=5)[1] == 0


def test_refused_work_connects_nothing() -> None:
    codes = planted(np.random.default_rng(3), 300, 64, 2)
    roots = Roots(300)
    done: list[int] = []
    assert not join_near(codes, 4, roots, 0, done.append)
    assert not done
    assert roots.all().tolist() == list(range(300))


def test_many_candidates_are_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_PAIRS", 7)
    monkeypatch.setattr(join, "_COMPARED_BYTES", 50)
    monkeypatch.setattr(join, "_HASHED_BYTES", 90)
    codes = planted(np.random.default_rng(8), 250, 64, 6)
    assert np.array_equal(connected(codes, 6), components(all_distances(codes) <= 6))


@pytest.mark.parametrize("bits", WIDTHS)
def test_blocks_divide_the_bits_of_a_code_evenly(bits: int) -> None:
    for blocks in (1, 5, 16):
        masks = np.array(join._masks(bits, blocks))
        sizes = np.bitwise_count(masks).sum(axis=1, dtype=np.int64)
        assert sizes.sum() == bits == np.bitwise_count(np.bitwise_or.reduce(masks)).sum(dtype=np.int64)
        assert sizes.max() - sizes.min() <= 1


def test_distinct_codes_with_equal_hashes_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(4).integers(0, 2, (300, 3), np.uint8)
    for multiplier in (join._MULTIPLIER, np.uint64(0)):
        monkeypatch.setattr(join, "_MULTIPLIER", multiplier)
        distinct, numbers = number_codes(codes)
        assert len(distinct) == len(np.unique(codes, axis=0)) == 8
        assert np.array_equal(distinct[numbers], codes)


def test_distances_count_the_bits_of_the_widest_codes() -> None:
    codes = np.zeros((2, 1_024), np.uint8)
    codes[1] = 255
    found = distances(join.as_words(codes), np.array([0, 0]), np.array([0, 1]))
    assert found.tolist() == [0, 8_192]
