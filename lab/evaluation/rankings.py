"""Owns how a ranking is judged: the distances of every query to every indexed image become one set of figures.

Rankings are ordered by (distance, index position), and the index is ordered by the records' ids, so ties are
ordered as in a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lab.evaluation import metrics

_BLOCK_DISTANCES = 20_000_000

Labels = npt.NDArray[np.bool_]
# Maps a slice of the queries to their distances from all indexed images, (rows, n).
Distances = Callable[[slice], npt.NDArray[np.generic]]


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """The figures of one ranking: means over queries, 0..1, unless said otherwise.

    Attributes:
        map_k: The mean of AP@k (`metrics.average_precision`).
        map_by_k: The mean of AP@k divided by k (`metrics.average_precision_by_k`).
        map_k_macro: The mean of AP@k over each class's queries, then over the classes.
        map_all: The mean of AP over the whole ranking.
        top: The nearest k indexed images of each query, (q, k).
        precisions: The precision-recall curve at 101 evenly spaced recalls.
        confusion: (classes, classes). A query's predicted class is the vote of its nearest k images. None for
            images with several labels.
    """

    map_k: float
    map_by_k: float
    map_k_macro: float
    map_all: float
    precision_k: float
    recall_k: float
    top: npt.NDArray[np.int64]
    precisions: npt.NDArray[np.float64]
    confusion: npt.NDArray[np.int64] | None

    @property
    def precision(self) -> float | None:
        """Of the queries that the vote assigns to a class, the share that belong to it, as a mean over classes."""
        return None if self.confusion is None else metrics.macro_mean(metrics.precision_per_class(self.confusion))

    @property
    def recall(self) -> float | None:
        """Of a class's queries, the share that the vote assigns to it, as a mean over classes."""
        return None if self.confusion is None else metrics.macro_mean(metrics.recall_per_class(self.confusion))

    @property
    def accuracy(self) -> float | None:
        """The share of queries that the vote assigns to their own class."""
        return None if self.confusion is None else metrics.accuracy(self.confusion)


def judge(distances: Distances, indexed: Labels, queries: Labels, k: int, is_multi_label: bool) -> Quality:
    """Judges the ranking by these distances. An image is relevant if it shares a class with the query.

    Args:
        distances: Computes the distances of some queries.
        indexed: Labels of the indexed images, bool (n, classes).
        queries: Labels of the queries, bool (q, classes).
        k: The number of results that count for the figures at k.
        is_multi_label: Whether images can have several labels; then there is no vote.
    """
    parts = []
    step = _block(indexed)
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        parts.append(_judge_block(distances(rows), indexed, queries[rows], k))
    ap, ap_by_k, ap_all, precision, recall, curves, totals, top = (
        np.concatenate([part[at] for part in parts]) for at in range(len(parts[0]))
    )
    confusion = None
    if not is_multi_label:
        votes = metrics.vote(indexed[top])
        confusion = metrics.confusion_matrix(queries.argmax(axis=1), votes, queries.shape[1])
    return Quality(
        metrics.micro_mean(ap),
        metrics.micro_mean(ap_by_k),
        metrics.macro_mean(metrics.per_class_mean(ap, queries)),
        metrics.micro_mean(ap_all),
        metrics.micro_mean(precision),
        metrics.micro_mean(recall),
        top,
        metrics.mean_curve(curves, totals),
        confusion,
    )


def judge_top(top: npt.NDArray[np.int64], indexed: Labels, queries: Labels, k: int) -> tuple[float, float]:
    """mAP@k and precision@k of given results. top: index positions, (q, k), -1 for no result."""
    relevant = _relevant(queries, indexed[top]) & (top >= 0)
    return (
        metrics.micro_mean(metrics.average_precision(relevant, k)),
        metrics.micro_mean(metrics.precision_at(relevant, k)),
    )


def chance_of(indexed: Labels, queries: Labels, k: int) -> float:
    """The expected mAP@k of random results. indexed: bool (n, classes); queries: bool (q, classes)."""
    step = _block(indexed)
    shares = [
        _shared(queries[start : start + step], indexed).mean(axis=1) for start in range(0, len(queries), step)
    ]
    return metrics.micro_mean(metrics.chance_average_precision(np.concatenate(shares), k))


def _judge_block(
    distances: npt.NDArray[np.generic], indexed: Labels, queries: Labels, k: int
) -> tuple[npt.NDArray[np.float64] | npt.NDArray[np.int64], ...]:
    order = np.argsort(distances, axis=1, kind="stable")
    relevant = np.take_along_axis(_shared(queries, indexed), order, axis=1)
    totals = relevant.sum(axis=1)
    return (
        metrics.average_precision(relevant, k),
        metrics.average_precision_by_k(relevant, k),
        metrics.average_precision_all(relevant, totals),
        metrics.precision_at(relevant, k),
        metrics.recall_at(relevant, k, totals),
        metrics.interpolated_precision(relevant, totals),
        totals,
        order[:, :k],
    )


def _block(indexed: Labels) -> int:
    """How many queries to judge at once."""
    return max(1, _BLOCK_DISTANCES // max(1, len(indexed)))


def _shared(queries: Labels, indexed: Labels) -> npt.NDArray[np.bool_]:
    """Whether a query and an indexed image share a class: (q, n)."""
    shared: npt.NDArray[np.bool_] = queries.astype(np.float32) @ indexed.T.astype(np.float32) > 0
    return shared


def _relevant(queries: Labels, found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether each result shares a class with its query: (q, k). found: the results' labels, (q, k, classes)."""
    shared = queries[:, None, :] & found
    relevant: npt.NDArray[np.bool_] = np.logical_or.reduce(shared, axis=2)
    return relevant
