"""Owns what an evaluation is asked to measure (`Plan`), and what it measures: rows, and what plots and the contact
sheet need in addition."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.evaluation.buckets import Layout
from lookalike.model.records import DEFAULT_OVERSAMPLING

_AVERAGED = (
    "map5", "p5", "map_all", "recall5", "map5_by_k", "map5_macro", "accuracy", "precision", "recall",
    "fit_seconds", "search_ms", "candidates",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate.

    Attributes:
        dataset: A data set's name, or the path of a folder, an archive or a table.
        unseen: The share of classes that are held out from fitting; if it is not 0, only these classes are
            searched.
        oversampling: The oversampling of reranks in a cluster.
        hashes: Hash files to judge too.
        has_cluster: Whether a cluster is searched too.
        raw_partitions: In how many processes an index of raw features is timed; 0 for none.
        columns: What the columns of a table are, as `--columns` gives it.
        code_format: How the codes of a table are written; None to recognize it.
    """

    dataset: str
    models: Sequence[str]
    layers: Sequence[str]
    methods: Sequence[str]
    bits: Sequence[int]
    seeds: Sequence[int]
    k: int
    tables: Sequence[Layout]
    unseen: float
    limit: int | None
    weights: Path | None
    oversampling: int = DEFAULT_OVERSAMPLING
    hashes: Sequence[Path] = ()
    has_cluster: bool = False
    raw_partitions: int = 0
    columns: str = ""
    code_format: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One result. Shares are 0..1.

    Attributes:
        map5, p5, recall5, map5_by_k, map5_macro: Computed at the plan's k, even if it is not 5.
        accuracy, precision, recall: Of the classification of each query by a vote of its nearest images.
        index_bytes: The size of the vectors or codes alone.
        search_ms: The median time of one query in one thread.
        candidates: The share of the index that a search of hash tables compares with a query.
    """

    dataset: str
    classes: str
    model: str
    layer: str
    bits: int
    method: str
    score: str
    seed: int
    k: int
    map5: float
    p5: float
    map_all: float | None
    index_bytes: int
    recall5: float | None = None
    map5_by_k: float | None = None
    map5_macro: float | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    fit_seconds: float | None = None
    search_ms: float | None = None
    candidates: float | None = None

    def short(self) -> dict[str, Any]:
        """Returns the fields, with floats rounded to six digits."""
        return {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Details:
    """What plots and the contact sheet need of a ranking.

    Attributes:
        precisions: The precision-recall curve at 101 evenly spaced recalls.
        confusion: (classes, classes), see `lab.evaluation.rankings.Quality`; None for images with several labels.
        nearest: The nearest k indexed images of each query on the contact sheet, (queries, k).
    """

    precisions: npt.NDArray[np.float64]
    confusion: npt.NDArray[np.int64] | None
    nearest: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A row, and what plots need in addition; None for a search that does not rank the whole index. is_earlier:
    whether an earlier run measured it."""

    row: Row
    details: Details | None
    is_earlier: bool = False


Averaged = Sequence[tuple[Row, dict[str, float]]]


def averaged(rows: Sequence[Row]) -> Averaged:
    """Averages rows that differ only in the seed.

    Returns:
        For each group of such rows, a row with the means, and the standard deviation of each figure over the
        seeds. Groups are in the order of their first rows.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (row.dataset, row.classes, row.model, row.layer, row.bits, row.method, row.score)
        groups.setdefault(key, []).append(row)
    result = []
    for group in groups.values():
        means: dict[str, Any] = {}
        deviations: dict[str, float] = {}
        for name in _AVERAGED:
            values = [value for row in group if (value := getattr(row, name)) is not None]
            if values:
                means[name] = statistics.fmean(values)
                deviations[name] = statistics.stdev(values) if len(values) > 1 else 0.0
        result.append((dataclasses.replace(group[0], **means), deviations))
    return result


def classes_of(plan: Plan) -> str:
    """The value of a row's `classes`."""
    return "unseen" if plan.unseen else "all"
