"""Owns a sweep: judges every model, layer, method, code length and seed. Images are encoded once."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from encoder.features import FeatureModel
from encoder.hashing import Features, LinearHash, read_hash
from lab.datasets import LabelledImages, load_dataset
from lab.evaluation import systems
from lab.evaluation.buckets import HashTables, Layout
from lab.evaluation.rankings import Distances, Quality, judge, judge_top
from lab.evaluation.raw_index import RawIndex
from lab.evaluation.systems import HAMMING, RAW, Split
from lab.feature_cache import features_of, require_memory
from lookalike.model.errors import CannotStart, InvalidRequest
from lookalike.model.records import DEFAULT_OVERSAMPLING, record_id
from shard.kernel import CodeMatrix

_TIMED_QUERIES = 50
_AVERAGED = (
    "map5", "p5", "map_all", "recall5", "map5_by_k", "map5_macro", "accuracy", "precision", "recall",
    "fit_seconds", "search_ms", "candidates",
)  # fmt: skip
# Copies of the features in memory at once: raw, of unit length, in the raw index, and one temporary.
_COPIES = 4
# The most float64 values that a hash is fitted to: 1.6 GB.
_SAMPLE_VALUES = 200_000_000

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate. unseen: the share of classes that are held out from fitting; if it is not 0, only these
    classes are searched. oversampling: the oversampling of reranks in a cluster. hashes: hash files to
    judge too."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A row, and what plots need in addition."""

    row: Row
    quality: Quality | None


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A data set's features by one network and layer, split by a seed. dropped: the number of unreadable images.
    unlabelled: the number of queries without a label, which are excluded."""

    images: LabelledImages
    model: str
    layer: str
    seed: int
    split: Split
    indexed_keys: Sequence[str]
    indexed_rows: Rows
    query_rows: Rows
    dropped: int
    unlabelled: int


Progress = Callable[[str, int, int], None]


def prepare(plan: Plan, model: str, layer: str, seed: int, data: Path, cache: Path, threads: int,
            progress: Progress) -> Prepared:  # fmt: skip
    """Loads a data set, encodes it or reads its features from the cache, and splits it.

    Args:
        plan: What to evaluate.
        model: The network.
        layer: The layer that gives the features.
        seed: Seed of the split.
        data: The folder of data sets.
        cache: The folder of cached features.
        threads: Threads that decode images.
        progress: Called with the name of the phase, the number of images done, and their total number.

    Raises:
        InvalidRequest: If the data set is invalid, or has no images to index, query with or fit to.
        CannotStart: If the data set or the model is missing.
    """
    images = load_dataset(plan.dataset, data=data, seed=seed, limit=plan.limit)
    network = FeatureModel(model, plan.weights, layer, decode_threads=threads)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(f"encoding with {model}, {layer}", done, len(images.keys))

    features = features_of(images, network, cache, count)
    readable = ~np.isnan(features[:, 0])
    indexed, queries = (rows[readable[rows]] for rows in (images.indexed, images.queries))
    dropped = len(images.indexed) + len(images.queries) - len(indexed) - len(queries)
    # No image is relevant to a query without a label.
    unlabelled = int((~images.labels[queries].any(axis=1)).sum())
    queries = queries[images.labels[queries].any(axis=1)]
    require_memory((len(indexed) + len(queries)) * features.shape[1] * 4 * _COPIES, images.name, layer)
    labels = images.labels
    indexed = np.array(sorted(indexed, key=lambda row: (record_id(images.keys[row]), images.keys[row])), np.int64)
    sample = indexed
    if plan.unseen:
        hidden = _hidden_classes(images, plan.unseen, seed)
        sample = indexed[~images.labels[indexed][:, hidden].any(axis=1)]
        indexed, queries = (rows[images.labels[rows][:, hidden].any(axis=1)] for rows in (indexed, queries))
        # An image is relevant only by its hidden classes, not by other classes that it has.
        labels = images.labels & np.isin(np.arange(len(images.classes)), hidden)
    if not (len(indexed) and len(queries) and len(sample)):
        raise InvalidRequest(f"dataset: {images.name} leaves no images to index or to query with; use more images")
    step = -(-len(sample) * features.shape[1] // _SAMPLE_VALUES)
    sample = np.sort(sample)[::step]

    def take(rows: Rows) -> Features:
        return np.array(features[rows], np.float32)

    split = Split(
        take(indexed), take(queries), labels[indexed], labels[queries],
        take(sample), images.labels[sample], str(network),
    )  # fmt: skip
    return Prepared(
        images,
        model,
        layer,
        seed,
        split,
        [images.keys[row] for row in indexed],
        indexed,
        queries,
        dropped,
        unlabelled,
    )


def evaluate(
    prepared: Prepared, plan: Plan, progress: Progress, leave_out: Callable[[str], None]
) -> Iterator[Result]:
    """Judges the raw features, then the hashes in files, then every method at every code length. leave_out: called
    with the reason why a hash is skipped."""
    split = prepared.split
    search_ms = _time_raw(split, plan.k)
    for score, distances in systems.raw_distances(split).items():
        quality = _judge(distances, prepared, plan)
        size = split.indexed.nbytes
        timed = search_ms if score == systems.EUCLIDEAN else None
        yield Result(_row(prepared, plan, quality, 0, RAW, score, size, search_ms=timed), quality)
    for path in plan.hashes:
        given = read_hash(path)
        if given.width != split.indexed.shape[1] or given.features not in ("", split.features):
            leave_out(f"{path}: was fitted to other features than those of {prepared.model}, {prepared.layer}")
            continue
        yield from _judge_hash(prepared, plan, given, f"{given.method} {path.name}", None)
    total = len(plan.methods) * len(plan.bits)
    for number, (method, bits) in enumerate((m, b) for m in plan.methods for b in plan.bits):
        progress(f"hashing by {method}, {bits} bits", number, total)
        started = time.perf_counter()
        try:
            found = systems.fit(method, split, bits, prepared.seed)
        except (InvalidRequest, CannotStart) as error:
            leave_out(f"{method}, {bits} bits: {error.message}")
            continue
        yield from _judge_hash(prepared, plan, found, method, time.perf_counter() - started)
    progress("hashing", total, total)


def averaged(rows: Sequence[Row]) -> list[tuple[Row, dict[str, float]]]:
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
        means: dict[str, float] = {}
        deviations: dict[str, float] = {}
        for name in _AVERAGED:
            values = [value for row in group if (value := getattr(row, name)) is not None]
            if values:
                means[name] = statistics.fmean(values)
                deviations[name] = statistics.stdev(values) if len(values) > 1 else 0.0
        result.append((dataclasses.replace(group[0], **means), deviations))  # type: ignore[arg-type]
    return result


def _judge_hash(
    prepared: Prepared, plan: Plan, found: LinearHash, method: str, fit_seconds: float | None
) -> Iterator[Result]:
    split = prepared.split
    codes = found.codes(split.indexed)
    search_ms = _time_codes(codes, found.codes(split.queries[:_TIMED_QUERIES]), plan.k)
    for score, distances in systems.hashed_distances(found, split).items():
        quality = _judge(distances, prepared, plan)
        row = _row(
            prepared, plan, quality, found.bits, method, score, codes.nbytes, fit_seconds=fit_seconds,
            search_ms=search_ms if score == HAMMING else None,
        )  # fmt: skip
        yield Result(row, quality)
    for layout in plan.tables:
        yield Result(_judge_buckets(prepared, plan, found, method, codes, layout), None)


def _judge_buckets(
    prepared: Prepared,
    plan: Plan,
    found: LinearHash,
    method: str,
    codes: npt.NDArray[np.uint8],
    layout: Layout,
) -> Row:
    split = prepared.split
    tables = HashTables(codes, layout, prepared.seed)
    queries = found.codes(split.queries)
    search_ms = _median_ms(lambda row: tables.search(queries[row], plan.k), len(queries))
    answers = [tables.search(query, plan.k) for query in queries]
    top = np.stack([rows for rows, _ in answers])
    map_k, precision = judge_top(top, split.indexed_labels, split.query_labels, plan.k)
    return Row(
        prepared.images.name, classes_of(plan), prepared.model, prepared.layer, found.bits, method,
        f"buckets {layout}", prepared.seed, plan.k, map_k, precision, None, codes.nbytes, search_ms=search_ms,
        candidates=float(np.mean([count for _, count in answers])) / len(codes),
    )  # fmt: skip


def _judge(distances: Distances, prepared: Prepared, plan: Plan) -> Quality:
    split = prepared.split
    return judge(distances, split.indexed_labels, split.query_labels, plan.k, prepared.images.is_multi_label)


def _row(
    prepared: Prepared, plan: Plan, quality: Quality, bits: int, method: str, score: str, index_bytes: int,
    *, fit_seconds: float | None = None, search_ms: float | None = None,
) -> Row:  # fmt: skip
    return Row(
        prepared.images.name, classes_of(plan), prepared.model, prepared.layer, bits, method, score,
        prepared.seed, plan.k, quality.map_k, quality.precision_k, quality.map_all, index_bytes,
        quality.recall_k, quality.map_by_k, quality.map_k_macro, quality.accuracy, quality.precision,
        quality.recall, fit_seconds, search_ms,
    )  # fmt: skip


def classes_of(plan: Plan) -> str:
    """The value of a row's `classes`."""
    return "unseen" if plan.unseen else "all"


def _hidden_classes(images: LabelledImages, share: float, seed: int) -> npt.NDArray[np.int64]:
    count = len(images.classes)
    hidden = max(1, round(share * count))
    if hidden >= count:
        raise InvalidRequest(f"unseen: {share} leaves no class to learn from; use a smaller share")
    return np.sort(np.random.RandomState(seed).permutation(count)[:hidden])


def _time_raw(split: Split, k: int) -> float:
    index = RawIndex(split.indexed.shape[1])
    index.append(split.indexed, np.arange(len(split.indexed), dtype=np.uint64))
    return _median_ms(lambda row: index.search(split.queries[row : row + 1], k), len(split.queries))


def _time_codes(codes: npt.NDArray[np.uint8], queries: npt.NDArray[np.uint8], k: int) -> float:
    matrix = CodeMatrix(codes.shape[1] * 8)
    matrix.append(codes, np.arange(len(codes), dtype=np.uint64))
    matrix.warm_up()
    return _median_ms(lambda row: matrix.search(queries[row : row + 1], k), len(queries))


def _median_ms(search: Callable[[int], object], queries: int) -> float:
    times = []
    with threadpool_limits(1, "blas"):
        for row in range(min(queries, _TIMED_QUERIES)):
            started = time.perf_counter()
            search(row)
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)
