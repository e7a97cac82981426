"""Whether one HTTP/2 connection is a bottleneck: the same load over one connection to a coordinator and over
several. Answers are verified first."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub

BITS, THREADS, CONNECTIONS = 256, 32, (1, 2, 4)
PADDING = "x" * 2_000


def measure(rows: int, seconds: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields the calls per second of THREADS threads: Search with small answers, and Get of about 2 MB each."""
    rows = min(rows, 20_000)
    codes = [row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (rows, BITS // 8), np.uint8)]
    with tempfile.TemporaryDirectory() as folder:
        config = ephemeral_config(Path(folder), 2)
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
    with Client(address) as client:
        fingerprint = client.get_collection("c").code_space.fingerprint
    searches = [
        pb.SearchRequest(
            collection="c", query=pb.Query(code=code), options=pb.SearchOptions(k=10), fingerprint=fingerprint
        )
        for code in codes[:1_000]
    ]
    reads = [pb.GetRequest(collection="c", keys=[f"k{i}" for i in range(1_000)])]
    for name, requests in (("Search", searches), ("Get", reads)):
        rates: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
        for _ in range(rounds):
            for count in CONNECTIONS:
                rates[count].append(_rate(address, count, name, requests, seconds))
        for count, measured in rates.items():
            rate = round(float(np.median(measured)), 1)
            yield {"figure": name, "connections": count, "calls_per_second": rate}


def _rate(address: str, connections: int, name: str, requests: list[Any], seconds: float) -> float:
    # Channels to one address share a connection unless each has its own subchannel pool.
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=options) for _ in range(connections)]
    calls = [getattr(SearchServiceStub(channel), name) for channel in channels]
    counts = [0] * THREADS
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            calls[number % connections](requests[(number * 31 + counts[number]) % len(requests)])
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for channel in channels:
        channel.close()
    return sum(counts) / seconds
