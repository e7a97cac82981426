"""Whether one HTTP/2 connection holds a client back: the same load over one connection to a coordinator and over
several. Answers are checked first."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import Client, Record
from lookalike.supervisor import Supervisor
from lookalike.throwaway import throwaway_config

BITS, THREADS, CONNECTIONS = 256, 32, (1, 2, 4)
PADDING = "x" * 2_000


def measure(rows: int, seconds: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Calls a second of THREADS threads: Search with small answers, and Get of some 2 MB, in turns over the rounds."""
    rows = min(rows, 20_000)
    codes = [row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (rows, BITS // 8), np.uint8)]
    with tempfile.TemporaryDirectory() as folder:
        config = throwaway_config(Path(folder), 2)
        supervisor = Supervisor(config, Path(folder), lambda line: print(line, file=sys.stderr))
        try:
            supervisor.launch()
            supervisor.wait_ready()
            with Client(config.coordinator.listen) as client:
                client.create_collection("c", bits=BITS)
                records = (Record(f"k{i}", code=code, attributes={"t": PADDING}) for i, code in enumerate(codes))
                assert all(outcome.ok for outcome in client.ingest(records, collection="c"))
                assert client.search(code=codes[7], k=1, collection="c").hits[0].key == "k7"
            yield from _compare(config.coordinator.listen, codes, seconds, rounds)
        finally:
            supervisor.stop()


def _compare(address: str, codes: list[bytes], seconds: float, rounds: int) -> Iterator[dict[str, Any]]:
    keys = [f"k{i}" for i in range(1_000)]
    calls = {
        "Search": lambda client, i: client.search(
            code=codes[i % len(codes)], k=10, collection="c", include_attributes=False
        ),
        "Get of 2 MB": lambda client, i: client.get(keys, collection="c"),
    }
    for name, call in calls.items():
        rates: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
        for _ in range(rounds):
            for count in CONNECTIONS:
                rates[count].append(_rate(address, count, call, seconds))
        for count in CONNECTIONS:
            yield {
                "figure": name,
                "connections": count,
                "calls_per_second": round(float(np.median(rates[count])), 1),
            }


def _rate(address: str, connections: int, call: Any, seconds: float) -> float:
    clients = [Client(address) for _ in range(connections)]
    counts = [0] * THREADS
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            call(clients[number % connections], number * 10_007 + counts[number])
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    return sum(counts) / seconds
