"""The index from ids to row numbers, and the CRC over columns, against plain Python."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.kernel import RowIndex
from shard.kernel.crc32 import crc32_of_rows


class Table:
    """An index, and the rows that it should hold, in a dictionary of numbers and ids."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.index = RowIndex(self._all)

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(list(self.rows.values()), np.uint64), np.array(list(self.rows), np.uint32)

    def add(self, ids: list[int]) -> None:
        first = max(self.rows, default=-1) + 1
        added = dict(enumerate(ids, first))
        self.rows |= added
        self.index.add(np.array(ids, np.uint64), np.array(list(added), np.uint32))

    def remove(self, numbers: list[int]) -> None:
        ids = [self.rows.pop(number) for number in numbers]
        self.index.remove(np.array(ids, np.uint64), np.array(numbers, np.uint32))

    def check(self, ids: list[int]) -> int:
        """Verifies that each id's rows are candidates, and that candidates exist. Returns how many others are."""
        positions, numbers = self.index.find(np.array(ids, np.uint64))
        assert positions.tolist() == sorted(positions.tolist())
        candidates: dict[int, set[int]] = {position: set() for position in range(len(ids))}
        for position, number in zip(positions.tolist(), numbers.tolist(), strict=True):
            candidates[position].add(number)
        others = 0
        for position, identifier in enumerate(ids):
            expected = {number for number, other in self.rows.items() if other == identifier}
            assert expected <= candidates[position] <= set(self.rows)
            others += len(candidates[position] - expected)
        return others


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 40), max_size=60)), max_size=12))
def test_rows_of_an_id_are_found_after_any_changes(steps: list[tuple[bool, list[int]]]) -> None:
    table = Table()
    for is_addition, values in steps:
        if is_addition:
            table.add([value * 0x9E3779B97F4A7C15 % 2**64 for value in values])
        else:
            table.remove([number for number in sorted(set(values)) if number in table.rows])
    table.check([value * 0x9E3779B97F4A7C15 % 2**64 for value in range(42)])


def test_candidates_that_are_others_are_rare() -> None:
    rng = np.random.default_rng(0)
    table = Table()
    ids = rng.integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    for start in range(0, len(ids), 1_000):
        table.add(ids[start : start + 1_000])
    table.remove(list(range(0, 20_000, 2)))
    positions, numbers = table.index.find(np.array(ids, np.uint64))
    assert 10_000 <= len(positions) < 11_000
    assert set(range(1, 20_000, 2)) <= set(numbers.tolist())
    assert table.index.memory_bytes < 12 * 20_000


def test_many_rows_of_one_id_are_all_found() -> None:
    table = Table()
    table.add([7] * 500)
    table.check([7])


@pytest.mark.parametrize("width", [0, 1, 7, 8, 9, 68])
def test_crc_equals_zlib(width: int) -> None:
    rng = np.random.default_rng(width)
    heads = rng.integers(0, 256, (50, width), np.uint8)
    sizes = rng.integers(0, 40, 50)
    texts = rng.integers(0, 256, sizes.sum(), np.uint8)
    ends = np.cumsum(sizes)
    expected = [
        zlib.crc32(texts[end - size : end].tobytes(), zlib.crc32(head.tobytes()))
        for head, size, end in zip(heads, sizes, ends, strict=True)
    ]
    assert crc32_of_rows(heads, texts, ends).tolist() == expected
