"""Owns a sweep over one prepared data set: judges its raw features, every method and every code length, and hashes
and codes from files."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from encoder.hashing import LinearHash, read_hash
from lab.evaluation import systems
from lab.evaluation.buckets import HashTables, Layout
from lab.evaluation.plan import Details, Plan, Result, Row, classes_of
from lab.evaluation.preparation import Prepared, Progress
from lab.evaluation.rankings import Distances, Quality, judge, judge_top
from lab.evaluation.raw_index import RawIndex
from lab.evaluation.systems import ASYMMETRIC, COSINE, EUCLIDEAN, HAMMING, RAW, Codes, Split
from lookalike.model.errors import CannotStart, InvalidRequest
from shard.kernel import CodeMatrix

# The method of codes that a table holds, and the layer of its rows.
GIVEN, COLUMN = "given", "column"
_TIMED_QUERIES = 50

Packed = npt.NDArray[np.uint8]

# Returns an earlier run's result for (model, method, bits, score); None if there is none.
Known = Callable[[str, str, int, str], Result | None]


@dataclasses.dataclass(frozen=True, slots=True)
class _System:
    """What is judged under several scores. measure: yields a result for each of the given scores, in order."""

    model: str
    method: str
    bits: int
    scores: Sequence[str]
    measure: Callable[[Sequence[str]], Iterator[Result]]

    @property
    def name(self) -> str:
        return f"{self.method}, {self.bits} bits" if self.bits else self.method


def evaluate(
    prepared: Prepared, plan: Plan, known: Known, progress: Progress, leave_out: Callable[[str], None]
) -> Iterator[Result]:
    """Judges the raw features, then given codes and hashes in files, then every method at every code length.

    Args:
        prepared: The data set.
        plan: What to evaluate.
        known: Gives the results that an earlier run measured.
        progress: Called with the number of rows that are done.
        leave_out: Called with the reason why a hash is skipped.
    """
    found = list(_systems(prepared, plan, leave_out))
    phase = f"measuring {prepared.model}, {prepared.layer}, seed {prepared.seed}"
    done, total = 0, sum(len(system.scores) for system in found)
    for system in found:
        progress(phase, done, total, system.name)
        ready = {score: known(system.model, system.method, system.bits, score) for score in system.scores}
        fresh = system.measure([score for score in system.scores if ready[score] is None])
        try:
            for number, score in enumerate(system.scores, 1):
                yield ready[score] or next(fresh)
                progress(phase, done + number, total, system.name)
        except (InvalidRequest, CannotStart) as error:
            leave_out(f"{system.name}: {error.message}")
        done += len(system.scores)


def row_count(plan: Plan, has_features: bool, has_codes: bool) -> int:
    """How many rows a plan has for one model, layer and seed, without those through a cluster."""
    hashed = len(plan.hashes) + len(plan.methods) * len(plan.bits)
    rows = 2 + hashed * (2 + len(plan.tables)) if has_features else 0
    return rows + (1 + len(plan.tables) if has_codes else 0)


def _systems(prepared: Prepared, plan: Plan, leave_out: Callable[[str], None]) -> Iterator[_System]:
    split, buckets = prepared.split, [_bucket_score(layout) for layout in plan.tables]
    if split.has_features:
        yield _System(
            prepared.model, RAW, 0, (COSINE, EUCLIDEAN), lambda scores: _judge_raw(prepared, plan, scores)
        )
    if (codes := split.codes) is not None:
        yield _System(
            codes.name, GIVEN, 8 * codes.indexed.shape[1], (HAMMING, *buckets),
            lambda scores: _judge_given(prepared, plan, codes, scores),
        )  # fmt: skip
    if not split.has_features:
        return
    scores = (HAMMING, ASYMMETRIC, *buckets)
    for path in plan.hashes:
        given = read_hash(path)
        if given.width != split.indexed.shape[1] or given.features not in ("", split.features):
            leave_out(f"{path}: was fitted to other features than those of {prepared.model}, {prepared.layer}")
            continue
        method = f"{given.method} {path.name}"

        def judge_file(
            missing: Sequence[str], given: LinearHash = given, method: str = method
        ) -> Iterator[Result]:
            return _judge_hash(prepared, plan, given, method, missing, None)

        yield _System(prepared.model, method, given.bits, scores, judge_file)
    for method in plan.methods:
        for bits in plan.bits:

            def fit_and_judge(missing: Sequence[str], method: str = method, bits: int = bits) -> Iterator[Result]:
                if not missing:
                    return
                started = time.perf_counter()
                found = systems.fit(method, split, bits, prepared.seed)
                fit_seconds = time.perf_counter() - started
                yield from _judge_hash(prepared, plan, found, method, missing, fit_seconds)

            yield _System(prepared.model, method, bits, scores, fit_and_judge)


def _judge_raw(prepared: Prepared, plan: Plan, scores: Sequence[str]) -> Iterator[Result]:
    split = prepared.split
    distances = systems.raw_distances(split) if scores else {}
    for score in scores:
        quality = _judge(distances[score], prepared, plan)
        search_ms = _time_raw(split, plan.k) if score == EUCLIDEAN else None
        row = _row(prepared, plan, quality, 0, RAW, score, split.indexed.nbytes, search_ms=search_ms)
        yield Result(row, _details(quality, prepared))


def _judge_given(prepared: Prepared, plan: Plan, codes: Codes, scores: Sequence[str]) -> Iterator[Result]:
    named = dataclasses.replace(prepared, model=codes.name, layer=COLUMN)
    distances = {HAMMING: systems.code_distances(codes)} if HAMMING in scores else {}
    return _judge_codes(named, plan, codes.indexed, codes.queries, GIVEN, scores, distances, None)


def _judge_hash(
    prepared: Prepared, plan: Plan, found: LinearHash, method: str, scores: Sequence[str],
    fit_seconds: float | None,
) -> Iterator[Result]:  # fmt: skip
    if not scores:
        return iter(())
    split = prepared.split
    distances = systems.hashed_distances(found, split)
    indexed, queries = found.codes(split.indexed), found.codes(split.queries)
    return _judge_codes(prepared, plan, indexed, queries, method, scores, distances, fit_seconds)


def _judge_codes(
    prepared: Prepared, plan: Plan, indexed: Packed, queries: Packed, method: str, scores: Sequence[str],
    distances: dict[str, Distances], fit_seconds: float | None,
) -> Iterator[Result]:  # fmt: skip
    layouts = {_bucket_score(layout): layout for layout in plan.tables}
    for score in scores:
        if score in layouts:
            yield Result(_judge_buckets(prepared, plan, indexed, queries, method, layouts[score]), None)
            continue
        search_ms = _time_codes(indexed, queries[:_TIMED_QUERIES], plan.k) if score == HAMMING else None
        quality = _judge(distances[score], prepared, plan)
        row = _row(
            prepared, plan, quality, 8 * indexed.shape[1], method, score, indexed.nbytes,
            fit_seconds=fit_seconds, search_ms=search_ms,
        )  # fmt: skip
        yield Result(row, _details(quality, prepared))


def _bucket_score(layout: Layout) -> str:
    return f"buckets {layout}"


def _judge_buckets(
    prepared: Prepared, plan: Plan, indexed: Packed, queries: Packed, method: str, layout: Layout
) -> Row:
    split = prepared.split
    tables = HashTables(indexed, layout, prepared.seed)
    search_ms = _median_ms(lambda row: tables.search(queries[row], plan.k), len(queries))
    answers = [tables.search(query, plan.k) for query in queries]
    top = np.stack([rows for rows, _ in answers])
    map_k, precision = judge_top(top, split.indexed_labels, split.query_labels, plan.k)
    return Row(
        prepared.images.name, classes_of(plan), prepared.model, prepared.layer, 8 * indexed.shape[1], method,
        _bucket_score(layout), prepared.seed, plan.k, map_k, precision, None, indexed.nbytes, search_ms=search_ms,
        candidates=float(np.mean([count for _, count in answers])) / len(indexed),
    )  # fmt: skip


def _details(quality: Quality, prepared: Prepared) -> Details:
    return Details(quality.precisions, quality.confusion, quality.top[prepared.shown_queries])


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
