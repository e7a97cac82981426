"""Owns evaluation through a running cluster: it searches the features and hashes of a sweep by RPC, with each
score and rerank."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoder.hashing import LinearHash
from lab.evaluation import systems
from lab.evaluation.plan import Plan, Result, Row, classes_of
from lab.evaluation.preparation import Prepared, Progress
from lab.evaluation.rankings import judge_top
from lookalike.client.sync_client import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.model.codespace import CodeSpace
from lookalike.model.records import MAX_BATCH_HITS, Record

PARTITIONS = 3
# The `score` of a row -> the options of its searches.
MODES: dict[str, dict[str, Any]] = {
    "cluster hamming": {},
    "cluster score=asymmetric": {"score": "asymmetric"},
    "cluster rerank=asymmetric": {"rerank": "asymmetric"},
    "cluster rerank=features": {"rerank": "features"},
}


@contextlib.contextmanager
def cluster() -> Iterator[Client]:
    """Runs an ephemeral cluster without an encoder, and yields a client of it."""
    with tempfile.TemporaryDirectory() as folder:
        config = ephemeral_config(Path(folder), PARTITIONS, name="evaluation")
        supervisor = Supervisor(config, Path(folder), lambda line: print(line, file=sys.stderr))
        try:
            supervisor.launch()
            supervisor.wait_ready()
            with Client(config.coordinator.listen, timeout=120) as client:
                yield client
        finally:
            supervisor.stop()


def row_count(plan: Plan) -> int:
    """How many rows a plan has through a cluster for one model, layer and seed."""
    return len(plan.methods) * len(plan.bits) * len(MODES) if plan.has_cluster else 0


def evaluate(
    connect: Callable[[], Client],
    prepared: Prepared,
    plan: Plan,
    known: Callable[[str, str, int, str], Result | None],
    progress: Progress,
) -> Iterator[Result]:
    """Yields a result for every method, code length, score and rerank.

    Args:
        connect: Returns a client of the cluster, which is started by the first call.
        prepared: The data set.
        plan: What to evaluate.
        known: Gives the results that an earlier run measured; see `lab.evaluation.sweep`.
        progress: Called with the number of rows that are done.
    """
    done, total = 0, row_count(plan)
    for method, bits in ((method, bits) for method in plan.methods for bits in plan.bits):
        note = f"{method}, {bits} bits"
        progress("searching the cluster", done, total, note)
        ready = {score: known(prepared.model, method, bits, score) for score in MODES}
        missing = {score: options for score, options in MODES.items() if ready[score] is None}
        if missing:
            client = connect()
            found = systems.fit(method, prepared.split, bits, prepared.seed)
            name = f"{method}-{bits}-{prepared.seed}"
            _fill(client, name, prepared, found)
        for score, result in ready.items():
            yield result or Result(
                _search(client, name, prepared, plan, found, method, score, missing[score]), None
            )
            done += 1
            progress("searching the cluster", done, total, note)
        if missing:
            client.drop_collection(name)


def _fill(client: Client, name: str, prepared: Prepared, found: LinearHash) -> None:
    split = prepared.split
    space = CodeSpace(found.bits, prepared.model, "", prepared.layer, "", found.method, found.digest)
    client.create_collection(name, code_space=space, features="int8", feature_width=split.indexed.shape[1])
    codes = found.codes(split.indexed)
    records = (
        Record(key, code=code.tobytes(), features=features)
        for key, code, features in zip(prepared.indexed_keys, codes, split.indexed, strict=True)
    )
    for outcome in client.ingest(records, collection=name):
        if outcome.error is not None:
            raise outcome.error


def _search(
    client: Client, name: str, prepared: Prepared, plan: Plan, found: LinearHash, method: str, score: str,
    options: dict[str, Any],
) -> Row:  # fmt: skip
    split = prepared.split
    projections = found.projections(split.queries)
    codes = np.packbits(projections > 0, axis=1)
    place = {key: row for row, key in enumerate(prepared.indexed_keys)}
    step = max(1, min(256, MAX_BATCH_HITS // (plan.k * plan.oversampling)))
    top: list[Sequence[int]] = []
    started = time.perf_counter()
    for start in range(0, len(codes), step):
        rows = range(start, min(start + step, len(codes)))
        results = client.search_batch(
            collection=name,
            codes=[codes[row].tobytes() for row in rows],
            projections=[projections[row] for row in rows],
            features=[split.queries[row] for row in rows],
            k=plan.k,
            include_attributes=False,
            oversampling=plan.oversampling,
            **options,
        )
        for result in results:
            found_rows = [place[hit.key] for hit in result.hits]
            top.append([*found_rows, *[-1] * (plan.k - len(found_rows))])
    search_ms = (time.perf_counter() - started) * 1000 / len(codes)
    map_k, precision = judge_top(np.array(top), split.indexed_labels, split.query_labels, plan.k)
    feature_bytes = split.indexed.shape[1] + 4 if options.get("rerank") == "features" else 0
    size = len(split.indexed) * (found.bits // 8 + feature_bytes)
    return Row(
        prepared.images.name, classes_of(plan), prepared.model, prepared.layer, found.bits,
        method, score, prepared.seed, plan.k, map_k, precision, None, size, search_ms=search_ms,
    )  # fmt: skip
