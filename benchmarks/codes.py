"""Ingestion rate of precomputed codes, from parquet through a coordinator to durable SQLite, against SQLite alone.

The baseline writes the same rows with the same schema, `synchronous=FULL` and equally large transactions, from
memory and in one process: the upper limit for a SQLite-based shard. The CPU time of each process shows where the
remaining time goes."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet

from lookalike.client.sync_client import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from shard.store import Store
from shard.store_rows import COLUMNS, HEAD

ROWS = 100_000
BITS = 256
_COMMIT_ROWS = 4_096
_CHECKED = 1_000


def measure(rows: int) -> Iterator[dict[str, Any]]:
    """Yields the baseline, then one and two shards."""
    codes = np.random.default_rng(0).integers(0, 256, (rows, BITS // 8), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = _sqlite(folder / "alone.db", codes)
        yield {"what": "sqlite alone", "records": rows, "records_per_second": round(alone)}
        file = folder / "codes.parquet"
        table = {"key": [_key(row) for row in range(rows)], "code": [bytes(code) for code in codes]}
        table["label"] = [_label(row) for row in range(rows)]
        parquet.write_table(pa.table(table), file)
        for partitions in (1, 2):
            yield _job(folder / f"cluster-{partitions}", file, codes, partitions, alone)


def _key(row: int) -> str:
    return f"photos/{row % 1_000:03d}/{row:08d}.jpg"


def _label(row: int) -> str:
    return f"label {row % 100}"


def _sqlite(path: Path, codes: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Returns the rows per second of SQLite alone."""
    Store.create(path, CodeSpace(BITS), Indexing())
    head = bytes(HEAD.itemsize)
    rows = [
        (row, head + bytes(code), _key(row), json.dumps({"label": _label(row)})) for row, code in enumerate(codes)
    ]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    started = time.perf_counter()
    for start in range(0, len(rows), _COMMIT_ROWS):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?)",
            rows[start : start + _COMMIT_ROWS],
        )
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    connection.close()
    return len(rows) / seconds


def _job(
    data: Path, file: Path, codes: np.ndarray[Any, np.dtype[np.uint8]], partitions: int, alone: float
) -> dict[str, Any]:
    config = ephemeral_config(data, partitions)
    supervisor = Supervisor(config, data, lambda line: print(line, file=sys.stderr))
    try:
        supervisor.launch()
        supervisor.wait_ready()
        names = ["coordinator", *(f"shard-r0-{partition}" for partition in range(partitions))]
        processes = {name: psutil.Process(int((data / "run" / f"{name}.pid").read_text())) for name in names}
        before = {name: _cpu_seconds(process) for name, process in processes.items()}
        address = config.coordinator.listen
        _, start_seconds = _run(file, data, address, "--limit", "1", "--dry-run")
        job, job_seconds = _run(file, data, address)
        spent = {name: _cpu_seconds(process) - before[name] for name, process in processes.items()}
        spent["job"] = job_seconds - start_seconds
        with Client(address) as client:
            _check(client, codes)
    finally:
        supervisor.stop()
    rate = job["images_per_second"]
    return {
        "what": "job",
        "partitions": partitions,
        "records": len(codes),
        "records_per_second": round(rate),
        "per_shard": round(rate / partitions),
        "ratio_to_sqlite_alone": round(rate / alone, 3),
        "cpu_us_per_record": {name: round(1e6 * seconds / len(codes), 1) for name, seconds in spent.items()},
        "job_seconds": round(job["seconds"], 2),
    }


def _run(file: Path, data: Path, address: str, *more: str) -> tuple[dict[str, Any], float]:
    """Returns the job's summary and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lookalike", "ingest", str(file), "--json", "-c", "codes"]
    command += ["--server", address, "--dead-letters", str(data / "dead.jsonl"), *more]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(output), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _check(client: Client, codes: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Verifies the number of records and the content of a sample."""
    assert client.get_collection("codes").rows == len(codes)
    rows = np.linspace(0, len(codes) - 1, _CHECKED).astype(int).tolist()
    records = client.get([_key(row) for row in rows], collection="codes")
    assert [record.code for record in records] == [bytes(codes[row]) for row in rows]
    assert [record.attributes for record in records] == [{"label": _label(row)} for row in rows]
    results = client.search_batch(codes=[bytes(codes[row]) for row in rows[:100]], k=1, collection="codes")
    assert [result.hits[0].key for result in results] == [_key(row) for row in rows[:100]]
