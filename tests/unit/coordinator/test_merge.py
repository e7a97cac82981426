"""The merge: order, ties, cuts, and no effect of how rows are spread over parts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.merge import QueryHits, merge
from lookalike.cluster.scan import ScanHits

Row = tuple[int, int, str]


def part(queries: list[list[Row]], attributes: bool = False) -> ScanHits:
    rows = [row for hits in queries for row in hits]
    return ScanHits(
        [len(hits) for hits in queries],
        np.array([row[0] for row in rows], np.uint16),
        np.array([row[1] for row in rows], np.uint64),
        [row[2] for row in rows],
        [f'{{"key":"{row[2]}"}}' for row in rows] if attributes else [],
        100,
    )


def test_parts_interleave_by_distance_then_id() -> None:
    merged = merge([part([[(1, 9, "a"), (3, 1, "b")]]), part([[(1, 2, "c"), (2, 5, "d")]])], 1, 3)
    assert merged == [QueryHits([1, 1, 2], [], ["c", "a", "d"], [], [])]


def test_each_query_keeps_its_own_hits_and_attributes() -> None:
    merged = merge([part([[(1, 1, "a")], []], True), part([[], [(2, 2, "b")]], True)], 2, 5)
    assert [(hits.keys, hits.attributes) for hits in merged] == [
        (["a"], ['{"key":"a"}']),
        (["b"], ['{"key":"b"}']),
    ]


def test_no_parts_and_no_hits_are_empty() -> None:
    assert merge([], 2, 5) == [QueryHits.none()] * 2
    assert merge([part([[], []])], 2, 5) == [QueryHits.none()] * 2


def test_one_id_with_two_keys_keeps_the_parts_order() -> None:
    assert merge([part([[(1, 7, "a"), (1, 7, "b")]]), part([[(1, 8, "c")]])], 1, 2)[0].keys == ["a", "b"]


def test_first_leaves_a_record_out() -> None:
    hits = QueryHits([0, 1, 2], [7, 8, 9], ["a", "b", "c"], ["{}", "{}", "{}"], [0.5, 0.25, 0.75])
    assert hits.first(2, "b") == QueryHits([0, 2], [7, 9], ["a", "c"], ["{}", "{}"], [0.5, 0.75])
    assert hits.first(2, None) == QueryHits([0, 1], [7, 8], ["a", "b"], ["{}", "{}"], [0.5, 0.25])
    assert hits.first(3, "missing") == hits


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**64 - 1)), max_size=60, unique_by=lambda row: row[1]),
    st.integers(1, 70),
    st.integers(1, 6),
    st.randoms(),
)
def test_any_spread_over_parts_gives_one_answer(rows: list[tuple[int, int]], k: int, parts: int, random) -> None:
    spread: list[list[Row]] = [[] for _ in range(parts)]
    for distance, identifier in rows:
        spread[random.randrange(parts)].append((distance, identifier, str(identifier)))
    cut = [part([sorted(own)[:k]]) for own in spread]
    expected = [key for _, _, key in sorted((d, i, str(i)) for d, i in rows)[:k]]
    assert merge(cut, 1, k)[0].keys == expected
    assert merge(cut[::-1], 1, k)[0].keys == expected
