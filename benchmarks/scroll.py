"""Records per second of a scroll over a whole collection, and the time of a count. The baseline reads the same
rows from the shards' SQLite files in one process and decodes their attributes. Answers are verified first."""

from __future__ import annotations

import contextlib
import json
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lookalike import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor

BITS, PARTITIONS, LABELS, BATCH = 256, 2, 10, 100_000
COUNTS = 200


def measure(rows: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields the rate of each way to read all records, as a ratio to the baseline too, and the time of a count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ephemeral_config(folder, PARTITIONS)
        supervisor = Supervisor(config, folder, lambda line: print(line, file=sys.stderr))
        try:
            supervisor.launch()
            supervisor.wait_ready()
            with Client(config.coordinator.listen) as client:
                _fill(client, rows)
                _verify(client, rows)
                yield from _rates(client, folder, rows, rounds)
                yield from _counts(client, rows)
        finally:
            supervisor.stop()


def _fill(client: Client, rows: int) -> None:
    client.create_collection("c", bits=BITS, index_attributes=["label"])
    rng = np.random.default_rng(0)
    for start in range(0, rows, BATCH):
        numbers = np.arange(start, min(start + BATCH, rows))
        codes = rng.integers(0, 256, (len(numbers), BITS // 8), np.uint8)
        keys = [f"photos/{number:09d}.jpg" for number in numbers.tolist()]
        attributes = {"label": [f"label{number % LABELS}" for number in numbers.tolist()], "n": numbers}
        assert client.ingest_arrays(keys, codes, attributes, collection="c").stored == len(numbers)


def _verify(client: Client, rows: int) -> None:
    seen = np.zeros(rows, np.bool_)
    for record in client.scroll(collection="c", include_codes=True):
        number = record.attributes["n"]
        assert (record.key, len(record.code)) == (f"photos/{number:09d}.jpg", BITS // 8)
        assert not seen[number], f"{record.key} was returned twice"
        seen[number] = True
    assert seen.all()


def _rates(client: Client, folder: Path, rows: int, rounds: int) -> Iterator[dict[str, Any]]:
    ways: dict[str, Callable[[], int]] = {
        "baseline": lambda: _baseline(folder),
        "objects": lambda: sum(1 for _ in client.scroll(collection="c")),
        "objects_with_codes": lambda: sum(1 for _ in client.scroll(collection="c", include_codes=True)),
        "columns": lambda: sum(len(page.keys) for page in client.scroll_columns(collection="c")),
        "columns_with_codes_and_attributes": lambda: sum(
            len(page.attributes) for page in client.scroll_columns(collection="c", include_codes=True)
        ),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    used: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for way, read in ways.items():
            before, began = _cpu_seconds(), time.perf_counter()
            assert read() == rows
            rates[way].append(rows / (time.perf_counter() - began))
            after = _cpu_seconds()
            used[way] = {part: (after[part] - before[part]) / rows * 1e6 for part in after}
    baseline = float(np.median(rates["baseline"]))
    for way, measured in rates.items():
        rate = float(np.median(measured))
        yield {
            "figure": "scroll",
            "way": way,
            "rows": rows,
            "records_per_second": round(rate),
            "ratio": round(rate / baseline, 3),
            "cpu_us_per_record": {part: round(us, 2) for part, us in used[way].items()},
        }


def _baseline(folder: Path) -> int:
    count = 0
    for path in sorted(folder.rglob("records.sqlite")):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for _, text in connection.execute("SELECT key, attributes FROM records"):
                json.loads(text)
                count += 1
    return count


def _cpu_seconds() -> dict[str, float]:
    """The seconds of CPU that this process, and the cluster's, have used."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"client": own.ru_utime + own.ru_stime, "coordinator": 0.0, "shards": 0.0}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times, command = process.cpu_times(), process.cmdline()
            part = next((part for part in ("coordinator", "shard") if part in command), None)
            if part:
                seconds["shards" if part == "shard" else part] += times.user + times.system
    return seconds


def _counts(client: Client, rows: int) -> Iterator[dict[str, Any]]:
    expected = len(range(3, rows, LABELS))
    for figure, condition in (("count", None), ("count_by_indexed_attribute", {"label": "label3"})):
        seconds: list[float] = []
        before = _cpu_seconds()
        for _ in range(COUNTS):
            began = time.perf_counter()
            found = client.count(collection="c", filter=condition).count
            seconds.append(time.perf_counter() - began)
            assert found == (rows if condition is None else expected)
        after = _cpu_seconds()
        first, p50, p99 = seconds[0] * 1e3, *(np.percentile(seconds, [50, 99]) * 1e3).tolist()
        yield {
            "figure": figure,
            "rows": rows,
            "first_ms": round(first, 2),
            "p50_ms": round(p50, 2),
            "p99_ms": round(p99, 2),
            "cpu_ms_per_count": {part: round((after[part] - before[part]) / COUNTS * 1e3, 2) for part in after},
        }
