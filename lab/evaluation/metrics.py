"""Owns retrieval metrics and their definitions, in NumPy on arrays.

`relevant` is bool (q, n): for each query whether its ranked results are relevant, best first. Ranks after the end
of a ranking that is shorter than k are not relevant. `totals` is integers (q,): the number of relevant items that
exist for each query. A query's value never depends on another query, so long rankings can be passed in blocks of
rows. rel(i) is 1 for a relevant result at rank i (from 1), otherwise 0; P(i) = (rel(1) + ... + rel(i)) / i.

All functions raise InvalidRequest for arrays whose shapes or values do not match."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.model.errors import InvalidRequest

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def average_precision(relevant: Bools, k: int, totals: Integers | None = None) -> Floats:
    """AP@k = sum over i <= k of P(i) rel(i), divided by the number of relevant items among the first k; with
    `totals`, divided by min(k, totals) instead, so that missed items count. 0 where the divisor is 0. Float64
    (q,)."""
    first = _first(relevant, k)
    if totals is None:
        return _ratio(_precision_at_hits(first), first.sum(axis=1))
    return _ratio(_precision_at_hits(first), np.minimum(k, _checked_totals(first, totals)))


def average_precision_by_k(relevant: Bools, k: int) -> Floats:
    """sum over i <= k of P(i) rel(i), divided by k, however many relevant items were found. Float64 (q,)."""
    return _precision_at_hits(_first(relevant, k)) / k


def chance_average_precision(share: Floats, k: int) -> Floats:
    """The expected AP@k of random results. share: the relevant share of the index, 0..1, (q,). The number r of
    relevant results among k is binomially distributed. Given r, the result at rank i is relevant with probability
    r/k and, if it is, each of the i - 1 results before it with probability (r - 1)/(k - 1). Float64 (q,)."""
    _check_count("k", k, 1)
    share = np.asarray(share, np.float64)[:, None]
    found = np.arange(1, k + 1)
    ways = np.array([math.comb(k, r) for r in found.tolist()], np.float64)
    probability = ways * share**found * (1 - share) ** (k - found)
    places = np.arange(1, k + 1)[:, None]
    before = (places - 1) * (found - 1) / max(1, k - 1)
    given = ((1 + before) / places).sum(axis=0) / k
    chance: Floats = probability @ given
    return chance


def average_precision_all(relevant: Bools, totals: Integers) -> Floats:
    """AP = sum over all i of P(i) rel(i), divided by totals; 0 where totals is 0. Float64 (q,)."""
    relevant = _checked(relevant)
    return _ratio(_precision_at_hits(relevant), _checked_totals(relevant, totals))


def precision_at(relevant: Bools, k: int) -> Floats:
    """P(k) = the number of relevant items among the first k, divided by k. Float64 (q,)."""
    return _ratio(_first(relevant, k).sum(axis=1), k)


def recall_at(relevant: Bools, k: int, totals: Integers) -> Floats:
    """The number of relevant items among the first k, divided by totals; 0 where totals is 0. Float64 (q,)."""
    first = _first(relevant, k)
    return _ratio(first.sum(axis=1), _checked_totals(first, totals))


def interpolated_precision(relevant: Bools, totals: Integers, points: int = 101) -> Floats:
    """max of P(i) over the ranks i whose recall (rel(1) + ... + rel(i)) / totals is at least r, for `points`
    evenly spaced r from 0 to 1; 0 where no rank has that recall, and where totals is 0. Float64 (q, points)."""
    relevant = _checked(relevant)
    totals = _checked_totals(relevant, totals)
    _check_count("points", points, least=2)
    q, n = relevant.shape
    hits = relevant.cumsum(axis=1, dtype=np.int64)
    envelope = np.zeros((q, n + 1))
    envelope[:, :n] = np.maximum.accumulate((hits / np.arange(1, n + 1))[:, ::-1], axis=1)[:, ::-1]
    # In integers: in floating point, j / 100 * totals can be slightly above the integer that it should be.
    needed = -(-totals[:, None] * np.arange(points) // (points - 1))
    # Each row of hits is sorted; with an offset per row, all rows form one sorted array, which one call searches.
    row = np.arange(q)[:, None]
    span = max(n, int(totals.max(initial=0))) + 1
    first_rank = np.searchsorted((hits + row * span).ravel(), needed + row * span) - row * n
    return np.take_along_axis(envelope, first_rank, axis=1)


def mean_curve(precisions: Floats, totals: Integers) -> Floats:
    """The precision-recall curve of all queries: the mean of their interpolated precisions (q, points) over the
    queries that have relevant items; NaN if no query has. Float64 (points,)."""
    counted = precisions[np.asarray(totals) > 0]
    return _ratio(counted.sum(axis=0), len(counted), otherwise=np.nan)


def per_class_mean(values: Floats, labels: Bools) -> Floats:
    """The mean of the queries' values (q,) over each class's queries, by labels (q, classes); a query with
    several labels counts for each of them. NaN for a class with no query. Float64 (classes,)."""
    labels = _checked(labels, "labels")
    if np.shape(values) != (len(labels),):
        raise InvalidRequest(f"values: have shape {np.shape(values)}; need one per label row, ({len(labels)},)")
    return _ratio(labels.T.astype(np.float64) @ values, labels.sum(axis=0), otherwise=np.nan)


def micro_mean(values: Floats) -> float:
    """The plain mean over queries; NaN if there is no query."""
    return float(np.mean(values)) if np.size(values) else float("nan")


def macro_mean(class_values: Floats) -> float:
    """The mean over the classes that have a value (are not NaN); NaN if no class has."""
    class_values = np.asarray(class_values)
    return micro_mean(class_values[~np.isnan(class_values)])


def vote(neighbour_labels: Bools) -> Integers:
    """The class of each query by its neighbours' labels, bool (q, k, classes), nearest first: the class that most
    of them have; of several such classes, the one whose first occurrence is nearest; of several such again, the
    one with the lowest number. -1 where no neighbour has a label. Int64 (q,)."""
    labels = np.asarray(neighbour_labels)
    if labels.ndim != 3 or labels.dtype != np.bool_:
        raise InvalidRequest(f"neighbour_labels: {labels.dtype} {labels.shape}; need bool (q, k, classes)")
    q, k, classes = labels.shape
    if k == 0 or classes == 0:
        return np.full(q, -1, np.int64)
    counts = labels.sum(axis=1, dtype=np.int64)
    # The first occurrence is below k, so it can break a tie but never outweigh a vote.
    winner = np.argmax(counts * k - labels.argmax(axis=1), axis=1)
    return np.where(counts.any(axis=1), winner, -1)


def confusion_matrix(true: Integers, predicted: Integers, classes: int) -> Integers:
    """The element [row, column] is the number of queries of class `row` that were predicted as class `column`.
    true, predicted: integers (q,) from 0 to classes - 1. Int64 (classes, classes)."""
    for name, values in (("true", true), ("predicted", predicted)):
        wrong = np.flatnonzero((np.asarray(values) < 0) | (np.asarray(values) >= classes))
        if wrong.size:
            raise InvalidRequest(
                f"{name}: row {wrong[0]} is {values[wrong[0]]}; need a class from 0 to {classes - 1}; drop the row"
            )
    if len(true) != len(predicted):
        raise InvalidRequest(f"predicted: has {len(predicted)} rows; need one for each of true's {len(true)}")
    cells = np.asarray(true, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: Integers) -> float:
    """The share of queries on the confusion matrix's diagonal; NaN when there is no query."""
    return float(_ratio(np.trace(matrix), matrix.sum(), otherwise=np.nan))


def precision_per_class(matrix: Integers) -> Floats:
    """For each class, its correct predictions divided by all its predictions. 0 for a class that has queries but
    is never predicted, because leaving it out would raise the mean over classes. NaN for a class with neither
    queries nor predictions. Float64 (classes,)."""
    precision = _ratio(np.diagonal(matrix), matrix.sum(axis=0))
    precision[(matrix.sum(axis=0) == 0) & (matrix.sum(axis=1) == 0)] = np.nan
    return precision


def recall_per_class(matrix: Integers) -> Floats:
    """For each class, its correct predictions divided by its queries; NaN without queries. Float64 (classes,)."""
    return _ratio(np.diagonal(matrix), matrix.sum(axis=1), otherwise=np.nan)


def _precision_at_hits(relevant: Bools) -> Floats:
    """sum over i of P(i) rel(i), (q,). Computes P(i) only at relevant results: with the whole index ranked for
    each query, an array of floats as large as `relevant` would not fit in memory."""
    row, column = np.nonzero(relevant)
    before = np.concatenate(([0], relevant.sum(axis=1).cumsum()))[row]
    precision = np.arange(1, len(row) + 1) - before
    sums = np.bincount(row, weights=precision / (column + 1), minlength=len(relevant))
    return sums.astype(np.float64, copy=False)


def _ratio(numerator: Any, denominator: Any, otherwise: float = 0.0) -> Floats:
    """numerator / denominator where the denominator is not 0, else `otherwise`."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(numerator.shape, otherwise, np.float64)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def _first(relevant: Bools, k: int) -> Bools:
    _check_count("k", k, least=1)
    return _checked(relevant)[:, :k]


def _checked(relevant: Bools, name: str = "relevant") -> Bools:
    relevant = np.asarray(relevant)
    if relevant.ndim != 2 or relevant.dtype != np.bool_:
        raise InvalidRequest(f"{name}: {relevant.dtype} {relevant.shape}; need bool with two axes")
    return relevant


def _checked_totals(relevant: Bools, totals: Integers) -> Integers:
    totals = np.asarray(totals, np.int64)
    if totals.shape != (len(relevant),):
        raise InvalidRequest(f"totals: have shape {totals.shape}; need one per query, ({len(relevant)},)")
    hits = relevant.sum(axis=1)
    wrong = np.flatnonzero(totals < hits)
    if wrong.size:
        row = wrong[0]
        raise InvalidRequest(
            f"totals: query {row} has {totals[row]} relevant items, but {hits[row]} are among its results;"
            " count them over the whole index"
        )
    return totals


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidRequest(f"{name}: {value}; need at least {least}")
