"""Splits: the number of images per class, and the random stream."""

from __future__ import annotations

import numpy as np
import pytest

from lab.datasets import labelled


def test_a_split_takes_80_percent_of_each_class_by_the_frozen_stream() -> None:
    # RandomState(0).permutation(10) is 2 8 4 9 1 6 7 3 0 5: the first two are the queries.
    indexed, queries = labelled.split_per_class(np.zeros(10, np.int64), 0)
    assert queries.tolist() == [2, 8]
    assert indexed.tolist() == [0, 1, 3, 4, 5, 6, 7, 9]


@pytest.mark.parametrize(
    ("images", "indexed", "queries"), [(50, 40, 10), (3, 2, 1), (2, 1, 1), (1, 1, 0), (4, 3, 1), (31, 25, 6)]
)
def test_class_of_n_images_is_split_in_proportion(images: int, indexed: int, queries: int) -> None:
    groups = np.repeat([0, 1], [images, 7])[np.random.RandomState(1).permutation(images + 7)]
    rows = labelled.split_per_class(groups, 3)
    assert [int((groups[side] == 0).sum()) for side in rows] == [indexed, queries]
    assert sorted([*rows[0], *rows[1]]) == list(range(images + 7))


def test_split_depends_on_the_seed() -> None:
    groups = np.arange(200) % 4
    first, again, other = (labelled.split_per_class(groups, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_pool_of_flowers102_gives_6552_and_818_in_the_classes_proportions() -> None:
    sizes = np.full(102, 78)
    sizes[:3] = 40, 258, 8189 - 99 * 78 - 40 - 258
    groups = np.repeat(np.arange(102), sizes)
    indexed, queries = labelled.split_pool(groups, 0)
    assert (len(groups), len(indexed), len(queries)) == (8189, 6552, 818)
    assert not set(indexed) & set(queries)
    assert np.abs(np.bincount(groups[indexed]) - 0.8 * sizes).max() <= 1
    assert np.abs(np.bincount(groups[queries]) - 0.1 * sizes).max() < 2  # both ends are rounded
