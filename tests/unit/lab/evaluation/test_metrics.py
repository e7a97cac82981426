"""Retrieval metrics against examples computed by hand and plain-Python implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.evaluation import metrics
from lookalike.model.errors import InvalidRequest

# Relevant at ranks 1, 3 and 4 | at rank 2 | nowhere.
RELEVANT = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
TOTALS = np.array([4, 1, 2])


def plain_sum(row: list[bool], k: int) -> float:
    """sum over i <= k of P(i) rel(i), as it is written."""
    total, hits = 0.0, 0
    for rank, hit in enumerate(row[:k], start=1):
        hits += hit
        total += hits / rank if hit else 0.0
    return total


def random_rankings(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Queries of every density, from none to all relevant, with some relevant items left unfound."""
    rng = np.random.default_rng(seed)
    q, n = 40, int(rng.integers(1, 60))
    relevant = rng.random((q, n)) < np.linspace(0, 1, q)[:, None]
    return relevant, relevant.sum(axis=1) + rng.integers(0, 4, q)


def test_average_precision_divides_by_the_hits_in_the_first_k() -> None:
    at_five = [(1 / 1 + 2 / 3 + 3 / 4) / 3, (1 / 2) / 1, 0]
    at_three = [(1 / 1 + 2 / 3) / 2, 1 / 2, 0]
    assert metrics.average_precision(RELEVANT, 5) == pytest.approx(at_five)
    assert metrics.average_precision(RELEVANT, 3) == pytest.approx(at_three)
    assert metrics.average_precision(RELEVANT, 1).tolist() == [1, 0, 0]


def test_average_precision_with_totals_counts_misses() -> None:
    # min(k, totals): of 4, 1 and 2 relevant items at most 3 fit among the first 3.
    assert metrics.average_precision(RELEVANT, 3, TOTALS) == pytest.approx([(1 + 2 / 3) / 3, 1 / 2, 0])
    assert metrics.average_precision(RELEVANT, 5, TOTALS) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 4, 1 / 2, 0])


def test_average_precision_by_k_divides_by_k_even_past_the_ranking() -> None:
    assert metrics.average_precision_by_k(RELEVANT, 3) == pytest.approx([(1 + 2 / 3) / 3, (1 / 2) / 3, 0])
    assert metrics.average_precision_by_k(RELEVANT, 10) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 10, 1 / 20, 0])


def test_average_precision_over_all_divides_by_the_total() -> None:
    assert metrics.average_precision_all(RELEVANT, TOTALS) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 4, 1 / 2, 0])
    assert metrics.average_precision_all(RELEVANT[2:], np.array([0])).tolist() == [0]


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_equals_plain_python(seed: int) -> None:
    relevant, totals = random_rankings(seed)
    rows, n = relevant.tolist(), relevant.shape[1]
    for k in (1, 2, n, n + 7):
        sums = [plain_sum(row, k) for row in rows]
        found = [sum(row[:k]) for row in rows]
        assert metrics.average_precision(relevant, k) == pytest.approx(
            [value / max(1, hits) for value, hits in zip(sums, found, strict=True)]
        )
        assert metrics.average_precision(relevant, k, totals) == pytest.approx(
            [value / max(1, min(k, total)) for value, total in zip(sums, totals.tolist(), strict=True)]
        )
        assert metrics.average_precision_by_k(relevant, k) == pytest.approx([value / k for value in sums])
    assert metrics.average_precision_all(relevant, totals) == pytest.approx(
        [plain_sum(row, n) / max(1, total) for row, total in zip(rows, totals.tolist(), strict=True)]
    )


def test_a_column_major_view_gives_the_same_values() -> None:
    relevant, totals = random_rankings(5)
    turned = np.asfortranarray(np.repeat(relevant, 2, axis=1))[:, ::2]
    assert np.array_equal(
        metrics.average_precision_all(turned, totals), metrics.average_precision_all(relevant, totals)
    )
    assert np.array_equal(
        metrics.interpolated_precision(turned, totals), metrics.interpolated_precision(relevant, totals)
    )


def test_precision_counts_missing_results_as_not_relevant() -> None:
    assert metrics.precision_at(RELEVANT, 4) == pytest.approx([3 / 4, 1 / 4, 0])
    assert metrics.precision_at(RELEVANT, 10) == pytest.approx([3 / 10, 1 / 10, 0])


def test_recall_divides_by_the_total() -> None:
    assert metrics.recall_at(RELEVANT, 3, TOTALS) == pytest.approx([2 / 4, 1, 0])
    assert metrics.recall_at(RELEVANT, 10, TOTALS) == pytest.approx([3 / 4, 1, 0])
    assert metrics.recall_at(RELEVANT[2:], 3, np.array([0])).tolist() == [0]


def curve(relevant: np.ndarray, totals: np.ndarray, points: int = 101) -> np.ndarray:
    return metrics.mean_curve(metrics.interpolated_precision(relevant, totals, points), totals)


def test_the_curve_is_the_best_precision_at_each_recall_or_beyond() -> None:
    precisions = curve(RELEVANT[:2], TOTALS[:2], 5)
    # At recalls of 0, 1/4, 2/4, 3/4 and 1. Query 0 has recall 1/4, 2/4, 3/4 at ranks 1, 3, 4 with P = 1, 2/3, 3/4:
    # beyond 2/4, 3/4 is best; 4/4 is never reached. Query 1 has its only item at rank 2, where P = 1/2.
    first, second = [1, 1, 3 / 4, 3 / 4, 0], [1 / 2] * 5
    assert precisions == pytest.approx(np.mean([first, second], axis=0))


def test_a_query_without_relevant_items_does_not_affect_the_curve() -> None:
    totals = np.array([4, 1, 0])
    with_it = curve(RELEVANT, totals)
    assert np.array_equal(with_it, curve(RELEVANT[:2], totals[:2]))


def test_a_query_that_finds_nothing_lowers_the_curve() -> None:
    two = curve(RELEVANT[:2], TOTALS[:2])
    assert curve(RELEVANT, TOTALS) == pytest.approx(two * 2 / 3)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("points", [2, 11, 101])
def test_interpolated_precision_equals_plain_python(seed: int, points: int) -> None:
    relevant, totals = random_rankings(seed)
    result = metrics.interpolated_precision(relevant, totals, points)
    for row, total, values in zip(relevant.tolist(), totals.tolist(), result, strict=True):
        for j in range(points):
            # hits / total >= j / (points - 1), in whole numbers.
            reached = [
                sum(row[:rank]) / rank
                for rank in range(1, len(row) + 1)
                if total and sum(row[:rank]) * (points - 1) >= j * total
            ]
            assert values[j] == pytest.approx(max(reached, default=0))


def test_every_whole_recall_is_reached_at_its_own_hit() -> None:
    """Recall 7/100 of 100 items is the 7th hit, though 0.07 * 100 is above 7 in floating point."""
    relevant = np.zeros((1, 107), bool)
    relevant[0, :7] = True
    precisions = metrics.interpolated_precision(relevant, np.array([100]))[0]
    assert precisions[:8].tolist() == [1] * 8
    assert precisions[8:].tolist() == [0] * 93


def test_per_class_means_count_a_query_in_each_of_its_classes() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], bool)
    values = np.array([0.2, 0.6, 1.0, 0.4])
    means = metrics.per_class_mean(values, labels)
    assert means[:2] == pytest.approx([(0.2 + 0.6 + 0.4) / 3, (0.6 + 1.0) / 2])
    assert np.isnan(means[2])
    assert metrics.macro_mean(means) == pytest.approx((0.4 + 0.8) / 2)
    assert metrics.micro_mean(values) == pytest.approx(2.2 / 4)


def one_hot(*rows: list[int]) -> NDArray[np.bool_]:
    """(q, k) class numbers, -1 for none, as bool (q, k, 3)."""
    return np.array(rows)[:, :, None] == np.arange(3)


def test_the_most_frequent_class_wins_and_the_nearest_breaks_ties() -> None:
    most, tie, tie_reversed = [2, 1, 0, 1], [2, 0, 0, 2], [0, 2, 2, 0]
    assert metrics.vote(one_hot(most, tie, tie_reversed)).tolist() == [1, 2, 0]
    # A first place is worth less than one vote, however long the list.
    assert metrics.vote(one_hot([2, 2, *[1] * 20, *[0] * 21])).tolist() == [0]
    assert metrics.vote(one_hot([1, *[2] * 2])).tolist() == [2]


def test_two_classes_of_the_same_neighbours_are_decided_by_number() -> None:
    assert metrics.vote(np.array([[[0, 1, 1], [0, 1, 1]]], bool)).tolist() == [1]


def test_unlabelled_neighbours_have_no_vote() -> None:
    assert metrics.vote(one_hot([-1, -1, 2], [-1, -1, -1], [-1, 0, 1])).tolist() == [2, -1, 0]
    assert metrics.vote(np.zeros((2, 0, 3), bool)).tolist() == [-1, -1]
    assert metrics.vote(np.zeros((2, 4, 0), bool)).tolist() == [-1, -1]


@pytest.mark.parametrize("seed", range(20))
def test_the_vote_equals_plain_python(seed: int) -> None:
    neighbours = np.random.default_rng(seed).integers(-1, 3, (50, 7)).tolist()
    expected = []
    for row in neighbours:
        present = [label for label in row if label >= 0]
        expected.append(min(present, key=lambda label: (-row.count(label), row.index(label)), default=-1))
    assert metrics.vote(one_hot(*neighbours)).tolist() == expected


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    true, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 3])
    matrix = metrics.confusion_matrix(true, predicted, 5)
    assert matrix.tolist() == [[2, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0] * 5, [0] * 5, [0] * 5]
    assert metrics.accuracy(matrix) == pytest.approx(2 / 5)
    precision, recall = metrics.precision_per_class(matrix), metrics.recall_per_class(matrix)
    # Classes 2 and 4 do not occur; class 3 has no query, but was predicted once, wrongly.
    assert precision == pytest.approx([2 / 3, 0, np.nan, 0, np.nan], nan_ok=True)
    assert recall == pytest.approx([2 / 3, 0, np.nan, np.nan, np.nan], nan_ok=True)


def test_a_class_that_is_never_predicted_has_precision_0() -> None:
    matrix = metrics.confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2)
    assert metrics.precision_per_class(matrix).tolist() == [1 / 2, 0]


def test_empty_input_raises_no_warning() -> None:
    none, empty, nothing = np.zeros((0, 5), bool), np.zeros((2, 0), bool), np.zeros(0, np.int64)
    totals = np.array([0, 3])
    for relevant, counts in ((none, nothing), (empty, totals)):
        q = len(relevant)
        for values in (
            metrics.average_precision(relevant, 5),
            metrics.average_precision(relevant, 5, counts),
            metrics.average_precision_by_k(relevant, 5),
            metrics.average_precision_all(relevant, counts),
            metrics.precision_at(relevant, 5),
            metrics.recall_at(relevant, 5, counts),
        ):
            assert values.tolist() == [0] * q
        assert metrics.interpolated_precision(relevant, counts, 3).tolist() == [[0] * 3] * q
    assert np.isnan(curve(none, nothing, 3)).all()
    assert curve(empty, totals, 3).tolist() == [0, 0, 0]
    assert np.isnan(metrics.per_class_mean(np.zeros(0), np.zeros((0, 2), bool))).all()
    assert np.isnan(metrics.micro_mean(np.zeros(0)))
    assert np.isnan(metrics.macro_mean(np.full(2, np.nan)))
    assert metrics.vote(np.zeros((0, 3, 2), bool)).shape == (0,)
    matrix = metrics.confusion_matrix(nothing, nothing, 2)
    assert matrix.tolist() == [[0, 0], [0, 0]]
    assert np.isnan(metrics.accuracy(matrix))
    assert np.isnan([metrics.precision_per_class(matrix), metrics.recall_per_class(matrix)]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.average_precision(RELEVANT, 0), "k: 0; need at least 1"),
        (lambda: metrics.precision_at(RELEVANT, -1), "k: -1; need at least 1"),
        (lambda: metrics.precision_at(RELEVANT[0], 1), r"relevant: bool \(5,\); need bool with two axes"),
        (lambda: metrics.average_precision_by_k(RELEVANT.astype(int), 1), "relevant: int64"),
        (lambda: metrics.recall_at(RELEVANT, 1, TOTALS[:2]), r"totals: have shape \(2,\); need .* \(3,\)"),
        (
            lambda: metrics.average_precision_all(RELEVANT, np.array([4, 0, 2])),
            "query 1 has 0 relevant items, but 1 are among its results",
        ),
        (lambda: metrics.interpolated_precision(RELEVANT, TOTALS, 1), "points: 1; need at least 2"),
        (lambda: metrics.per_class_mean(np.zeros(2), RELEVANT), r"values: have shape \(2,\); need .*\(3,\)"),
        (lambda: metrics.per_class_mean(np.zeros(3), RELEVANT[0]), r"labels: bool \(5,\)"),
        (lambda: metrics.vote(RELEVANT), r"neighbour_labels: bool \(3, 5\); need bool \(q, k, classes\)"),
        (lambda: metrics.confusion_matrix(np.array([0, 2]), np.array([0, 0]), 2), "true: row 1 is 2; .* 0 to 1"),
        (lambda: metrics.confusion_matrix(np.array([0]), np.array([-1]), 2), "predicted: row 0 is -1"),
        (lambda: metrics.confusion_matrix(np.array([0, 1]), np.array([0]), 2), "predicted: has 1 rows"),
    ],
)
def test_mismatched_arrays_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        call()


def test_chance_equals_the_mean_of_random_results() -> None:
    random = np.random.default_rng(0)
    shares = np.array([0.0, 0.1, 0.5, 1.0])
    for k in (1, 5, 20):
        drawn = [metrics.average_precision(random.random((60_000, k)) < share, k).mean() for share in shares]
        assert metrics.chance_average_precision(shares, k) == pytest.approx(drawn, abs=0.006)
    # Ten classes of equal size, the paper's CIFAR-10.
    assert metrics.chance_average_precision(np.array([0.1]), 5) == pytest.approx(0.1993, abs=1e-4)
