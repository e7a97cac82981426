"""How rankings are judged, against a plain Python twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lab.evaluation import rankings
from lab.evaluation.rankings import judge, judge_top


def slow_quality(distances: Any, indexed: Any, queries: Any, k: int) -> dict[str, Any]:
    """`judge` in plain Python, one query and one rank at a time."""
    n, classes = indexed.shape
    sums: dict[str, list[float]] = {name: [] for name in ("ap", "ap_by_k", "ap_all", "precision", "recall")}
    top, curves, confusion = [], [], np.zeros((classes, classes), int)
    for query, row in enumerate(distances):
        order = sorted(range(n), key=lambda place: (row[place], place))
        shares = [any(indexed[place][c] and queries[query][c] for c in range(classes)) for place in order]
        precisions = [sum(shares[: i + 1]) / (i + 1) for i in range(n)]
        gains = [precision * share for precision, share in zip(precisions, shares, strict=True)]
        hits, total = sum(shares[:k]), sum(shares)
        sums["ap"].append(sum(gains[:k]) / hits if hits else 0)
        sums["ap_by_k"].append(sum(gains[:k]) / k)
        sums["ap_all"].append(sum(gains) / total if total else 0)
        sums["precision"].append(hits / k)
        sums["recall"].append(hits / total if total else 0)
        if total:
            recalled = [sum(shares[: i + 1]) * 100 for i in range(n)]
            curves.append(
                [
                    max(
                        [p for p, seen in zip(precisions, recalled, strict=True) if seen >= point * total],
                        default=0,
                    )
                    for point in range(101)
                ]
            )
        top.append(order[:k])
        votes = [list(indexed[place]).index(True) for place in order[:k]]
        winner = max(range(classes), key=lambda c: (votes.count(c), -votes.index(c) if c in votes else -n))
        confusion[list(queries[query]).index(True), winner] += 1
    own = [[sums["ap"][q] for q in range(len(queries)) if queries[q][c]] for c in range(classes)]
    by_class = [sum(values) / len(values) for values in own if values]
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    macro = sum(by_class) / len(by_class)
    return means | {"macro": macro, "top": top, "curve": np.mean(curves, axis=0), "confusion": confusion}


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("ties", ["many ties", "all tied", "none tied"])
@pytest.mark.parametrize("block", [20_000_000, 70])
def test_judgement_equals_plain_python(k: int, ties: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rankings, "_BLOCK_DISTANCES", block)
    random = np.random.default_rng(k)
    indexed = np.eye(5, dtype=bool)[random.integers(4, size=30)]
    queries = np.eye(5, dtype=bool)[random.integers(5, size=13)]  # no indexed image is of the last class
    queries[0] = np.eye(5, dtype=bool)[4]
    distances = random.integers({"many ties": 4, "all tied": 1, "none tied": 10**9}[ties], size=(13, 30))
    found = judge(lambda rows: distances[rows], indexed, queries, k, is_multi_label=False)
    slow = slow_quality(distances.tolist(), indexed, queries, k)
    assert found.top.tolist() == slow["top"]
    assert np.array_equal(found.confusion, slow["confusion"])
    assert found.accuracy == pytest.approx(np.trace(slow["confusion"]) / 13)
    assert np.allclose(found.precisions, slow["curve"])
    assert (
        found.map_k, found.map_by_k, found.map_all, found.precision_k, found.recall_k, found.map_k_macro,
    ) == pytest.approx(
        (slow["ap"], slow["ap_by_k"], slow["ap_all"], slow["precision"], slow["recall"], slow["macro"])
    )  # fmt: skip


def test_ties_are_ordered_by_place_in_the_index() -> None:
    indexed = np.array([[0, 1], [1, 0], [1, 0]], bool)
    found = judge(lambda rows: np.zeros((1, 3))[rows], indexed, np.array([[1, 0]], bool), 2, False)
    assert found.top.tolist() == [[0, 1]]
    assert found.map_k == pytest.approx(1 / 2)
    assert found.map_all == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_with_several_labels_one_shared_class_is_relevant() -> None:
    indexed = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    queries = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    distances = np.tile([2, 1, 0], (3, 1))
    found = judge(lambda rows: distances[rows], indexed, queries, 3, is_multi_label=True)
    assert found.confusion is None
    assert found.accuracy is None
    # Relevant by rank: no yes yes, no no yes, no no no.
    assert found.map_k == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 / 3) / 3)
    assert found.precision_k == pytest.approx((2 / 3 + 1 / 3) / 3)


def test_given_results_are_judged_the_same_and_gaps_are_misses() -> None:
    random = np.random.default_rng(3)
    indexed = np.eye(4, dtype=bool)[random.integers(4, size=30)]
    queries = np.eye(4, dtype=bool)[random.integers(4, size=13)]
    distances = random.integers(9, size=(13, 30))
    whole = judge(lambda rows: distances[rows], indexed, queries, 5, False)
    assert judge_top(whole.top, indexed, queries, 5) == pytest.approx((whole.map_k, whole.precision_k))
    # The last row of the index is what -1 would wrongly point to.
    assert judge_top(np.full((1, 5), -1), indexed, indexed[-1:], 5) == (0, 0)
