"""What growth costs: precomputed codes from parquet through a coordinator to two shards, a million rows at a time.

At each million: records a second, processor time a record in each process, bytes on disk and in memory a row, and
the latency of searches. At the end: the restart of a shard, the first search with a filter, a backup, and the move
from two partitions to three."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet

from lookalike.client.sync_client import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig

BITS = 256
SHARDS = 2
STEP = 1_000_000
COLLECTION = "scale"
_SEARCHES = 300
_LABELS = 100


def measure(millions: int, plots: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yields the figures at each million rows, then those of the full collection.

    Args:
        millions: How many million rows to store.
        plots: The folder for scale.png, which shows the figures at each million.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ephemeral_config(folder / "cluster", SHARDS)
        with _Run(config, folder) as run:
            loads = []
            for million in range(millions):
                loads.append(run.load(million))
                yield loads[-1]
            if plots is not None:
                _plot(loads, plots / "scale.png")
            rows = millions * STEP
            yield {"figure": "restart of a shard", "rows": rows // SHARDS, **run.restart()}
            yield {"figure": "first search with a filter", "rows": rows, **run.first_filter(rows)}
            yield {"figure": "backup", "rows": rows, **run.backup()}
            yield {"figure": "move from 2 to 3 partitions", "rows": rows, **run.move()}


class _Run:
    """A cluster with one collection."""

    def __init__(self, config: ClusterConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._supervisor = Supervisor(config, folder / "cluster", lambda line: print(line, file=sys.stderr))
        self._watcher = threading.Thread(target=self._supervisor.watch)
        self._address = config.coordinator.listen
        self._client = Client(self._address, timeout=600)
        self._empty_bytes = 0

    def __enter__(self) -> _Run:
        self._supervisor.launch()
        self._supervisor.wait_ready()
        self._watcher.start()
        self._client.create_collection(COLLECTION, bits=BITS)
        self._empty_bytes = sum(self._held().values())
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._supervisor.ask_to_stop()
        self._watcher.join()
        self._supervisor.stop()

    def load(self, million: int) -> dict[str, Any]:
        """Stores the next million rows."""
        file = self._folder / "codes.parquet"
        _write(file, million)
        before, job_before = self._cpu(), _children_seconds()
        command = [sys.executable, "-m", "lookalike", "ingest", str(file), "--json", "-c", COLLECTION]
        command += ["--server", self._address, "--dead-letters", str(self._folder / "dead.jsonl")]
        summary = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert summary["stored"] == STEP, summary
        spent = {name: seconds - before[name] for name, seconds in self._cpu().items()}
        spent["job"] = _children_seconds() - job_before
        rows = (million + 1) * STEP
        held = sum(self._held().values()) - self._empty_bytes
        stored = sum(file.stat().st_size for file in self._folder.glob("cluster/r*/collections/*/*"))
        p50, p99 = self._search_ms()
        return {
            "figure": "load",
            "rows": rows,
            "records_per_second": round(summary["images_per_second"]),
            "cpu_us_per_record": {name: round(1e6 * seconds / STEP, 2) for name, seconds in spent.items()},
            "cpu_us_in_all": round(1e6 * sum(spent.values()) / STEP, 2),
            "disk_bytes_per_row": round(stored / rows, 1),
            "memory_bytes_per_row": round(held / rows, 1),
            "p50_ms": p50,
            "p99_ms": p99,
        }

    def restart(self) -> dict[str, Any]:
        """Kills a shard, and waits until it serves again."""
        before = self._held()["shard-r0-0"]
        pid = self._pid("shard-r0-0")
        psutil.Process(pid).kill()
        seconds = _timed(lambda: _until(lambda: self._pid("shard-r0-0") != pid and self._serves()))
        after = self._held()["shard-r0-0"]
        return {"seconds": seconds, "memory_mb_before": before >> 20, "memory_mb_after": after >> 20}

    def first_filter(self, rows: int) -> dict[str, Any]:
        """Searches twice with the same filter, on an attribute without an index."""
        search = self._searcher({"label": "label 7"})
        first, second = _timed(search), _timed(search)
        return {"seconds": first, "seconds_per_million": round(first / rows * STEP, 3), "repeated_seconds": second}

    def backup(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "lookalike", "backup", str(self._folder / "backup"), "-c", COLLECTION]
        command += ["--server", self._address]
        return {"seconds": _timed(lambda: subprocess.run(command, check=True, capture_output=True))}

    def move(self) -> dict[str, Any]:
        shard = self._config.shard.model_copy(update={"rebalance_mb_per_second": 1_000})
        self._supervisor.reload(self._config.model_copy(update={"partitions": SHARDS + 1, "shard": shard}))
        seconds = _timed(lambda: _until(self._is_balanced))
        return {"seconds": seconds}

    def _is_balanced(self) -> bool:
        rebalance = self._client.status().rebalance
        return rebalance.partitions == SHARDS + 1 and rebalance.slots_to_move == 0

    def _serves(self) -> bool:
        try:
            states = [replica.state for part in self._client.status().partitions for replica in part.replicas]
        except LookalikeError:
            return False
        return states == ["serving"] * SHARDS

    def _searcher(self, condition: dict[str, Any] | None = None) -> Callable[[], object]:
        code = np.random.default_rng(7).bytes(BITS // 8)
        return lambda: self._client.search(code=code, k=10, collection=COLLECTION, filter=condition)

    def _search_ms(self) -> tuple[float, float]:
        search = self._searcher()
        times = [1_000 * _timed(search, 6) for _ in range(_SEARCHES)]
        return round(float(np.percentile(times, 50)), 2), round(float(np.percentile(times, 99)), 2)

    def _pid(self, name: str) -> int:
        return int((self._folder / "cluster" / "run" / f"{name}.pid").read_text())

    def _names(self) -> list[str]:
        return ["coordinator", *(f"shard-r0-{partition}" for partition in range(SHARDS))]

    def _cpu(self) -> dict[str, float]:
        times = {name: psutil.Process(self._pid(name)).cpu_times() for name in self._names()}
        return {name: one.user + one.system for name, one in times.items()}

    def _held(self) -> dict[str, int]:
        """The memory of each shard, without mapped files."""
        held = {}
        for name in self._names()[1:]:
            memory = psutil.Process(self._pid(name)).memory_info()
            held[name] = memory.rss - memory.shared
        return held


def _plot(loads: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    millions = [load["rows"] / STEP for load in loads]
    figure = Figure(figsize=(9, 6), layout="constrained")
    rate, cost, size, latency = figure.subplots(2, 2).ravel()
    rate.plot(millions, [load["records_per_second"] for load in loads], marker="o")
    rate.set_title("records stored per second")
    for name in loads[0]["cpu_us_per_record"]:
        cost.plot(millions, [load["cpu_us_per_record"][name] for load in loads], marker="o", label=name)
    cost.set_title("processor time a record, µs")
    for name, label in (("disk_bytes_per_row", "on disk"), ("memory_bytes_per_row", "in memory")):
        size.plot(millions, [load[name] for load in loads], marker="o", label=label)
    size.set_title("bytes a row")
    for name in ("p50_ms", "p99_ms"):
        latency.plot(millions, [load[name] for load in loads], marker="o", label=name.removesuffix("_ms"))
    latency.set_title("latency of a search, ms")
    for axes in (rate, cost, size, latency):
        axes.set_xlabel("million rows")
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=100)


def _write(path: Path, million: int) -> None:
    rng = np.random.default_rng(million)
    numbers = range(million * STEP, (million + 1) * STEP)
    codes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(BITS // 8), STEP, [None, pa.py_buffer(rng.bytes(STEP * BITS // 8))]
    )
    # Keys in random order, as hashes of files are.
    table = {
        "key": [f"photos/{number * 2_654_435_761 % 2**32:08x}/{number:08d}.jpg" for number in numbers],
        "code": codes,
        "label": [f"label {number % _LABELS}" for number in numbers],
        "number": pa.array(numbers, pa.int64()),
    }
    parquet.write_table(pa.table(table), path)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _timed(call: Callable[[], object], digits: int = 2) -> float:
    started = time.perf_counter()
    call()
    return round(time.perf_counter() - started, digits)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)
