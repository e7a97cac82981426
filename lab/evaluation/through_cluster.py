"""Owns evaluation through a running cluster: it searches the features and hashes of a sweep by RPC, with each
score and rerank."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoder.hashing import LinearHash
from lab.evaluation import systems
from lab.evaluation.rankings import judge_top
from lab.evaluation.sweep import Plan, Prepared, Progress, Row, classes_of
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


def evaluate(client: Client, prepared: Prepared, plan: Plan, progress: Progress) -> Iterator[Row]:
    """Yields a row for every method, code length, score and rerank."""
    total = len(plan.methods) * len(plan.bits)
    for number, (method, bits) in enumerate((m, b) for m in plan.methods for b in plan.bits):
        progress(f"searching the cluster, {method}, {bits} bits", number, total)
        found = systems.fit(method, prepared.split, bits, prepared.seed)
        name = f"{method}-{bits}-{prepared.seed}"
        _fill(client, name, prepared, found)
        for score, options in MODES.items():
            yield _search(client, name, prepared, plan, found, method, score, options)
        client.drop_collection(name)
    progress("searching the cluster", total, total)


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
