"""The merge: order, ties, cuts, and no effect of how rows are spread over parts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.cluster.hits import HitTable, merge

Row = tuple[int, int, str]


def part(queries: list[list[Row]], attributes: bool = False) -> HitTable:
    rows = [row for hits in queries for row in hits]
    return HitTable(
        len(queries),
        query_of=np.repeat(np.arange(len(queries)), [len(hits) for hits in queries]),
        distances=np.array([row[0] for row in rows], np.uint16),
        ids=np.array([row[1] for row in rows], np.uint64),
        keys=np.array([row[2] for row in rows], np.object_),
        attributes=np.array([f'{{"key":"{row[2]}"}}' for row in rows] if attributes else [], np.object_),
    )


def rows_of(hits: HitTable) -> list[list[Row]]:
    """The rows of each query."""
    rows = list(zip(hits.distances.tolist(), hits.ids.tolist(), hits.keys.tolist(), strict=True))
    offsets = hits.offsets.tolist()
    return [rows[offsets[q] : offsets[q + 1]] for q in range(hits.queries)]


def test_parts_interleave_by_distance_then_id() -> None:
    merged = merge([part([[(1, 9, "a"), (3, 1, "b")]]), part([[(1, 2, "c"), (2, 5, "d")]])], 1, 3)
    assert rows_of(merged) == [[(1, 2, "c"), (1, 9, "a"), (2, 5, "d")]]


def test_each_query_keeps_its_own_hits_and_attributes() -> None:
    merged = merge([part([[(1, 1, "a")], []], True), part([[], [(2, 2, "b")]], True)], 2, 5)
    assert rows_of(merged) == [[(1, 1, "a")], [(2, 2, "b")]]
    assert merged.attributes.tolist() == ['{"key":"a"}', '{"key":"b"}']


def test_no_parts_or_no_hits_give_an_empty_table() -> None:
    assert rows_of(merge([], 2, 5)) == [[], []]
    assert rows_of(merge([part([[], []])], 2, 5)) == [[], []]
    assert rows_of(merge([part([[], []]), part([[], []])], 2, 5)) == [[], []]


def test_keys_with_one_id_are_ordered_by_key() -> None:
    parts = [part([[(1, 7, "b")]]), part([[(1, 8, "c"), (1, 9, "d")]]), part([[(1, 7, "a")]])]
    assert rows_of(merge(parts, 1, 3)) == [[(1, 7, "a"), (1, 7, "b"), (1, 8, "c")]]
    assert rows_of(merge(parts[::-1], 1, 3)) == rows_of(merge(parts, 1, 3))


def test_ranked_parts_merge_by_rank_then_id() -> None:
    def ranked(*rows: tuple[float, int, int]) -> HitTable:
        ranks, distances, ids = zip(*rows, strict=True)
        return HitTable(
            1,
            query_of=np.zeros(len(rows), np.int64),
            distances=np.array(distances, np.uint16),
            ids=np.array(ids, np.uint64),
            keys=np.array([str(i) for i in ids], np.object_),
            ranks=np.array(ranks),
        )

    merged = merge([ranked((0.1, 5, 8), (0.3, 1, 2)), ranked((0.1, 6, 3), (0.2, 9, 4))], 1, 3, by_rank=True)
    assert rows_of(merged) == [[(6, 3, "3"), (5, 8, "8"), (9, 4, "4")]]
    assert merged.ranks.tolist() == [0.1, 0.1, 0.2]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3) | st.integers(0, 2**64 - 1)), max_size=60),
    st.integers(1, 70),
    st.integers(1, 6),
    st.randoms(),
)
def test_any_distribution_over_parts_gives_one_answer(
    rows: list[tuple[int, int]], k: int, parts: int, random
) -> None:
    spread: list[list[Row]] = [[] for _ in range(parts)]
    keyed = [(distance, identifier, f"{identifier}/{i}") for i, (distance, identifier) in enumerate(rows)]
    for row in keyed:
        spread[random.randrange(parts)].append(row)
    cut = [part([sorted(own)[:k]]) for own in spread]
    expected = [sorted(keyed)[:k]]
    assert rows_of(merge(cut, 1, k)) == expected
    assert rows_of(merge(cut[::-1], 1, k)) == expected
    assert rows_of(merge([merge(cut[:2], 1, k), *cut[2:]], 1, k)) == expected
