"""The cost of observability: the throughput of Search with metrics scraped, with metrics scraped and every request
traced, and with neither, on clusters that are loaded alternately in one run.

Metrics are counted whether they are served or not, so the first ratio shows the cost of the scrapes alone. The
cost of counting is timed separately: the same calls in a loop, in microseconds per search."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.server.config import ClusterConfig, TracingConfig
from lookalike.server.observe import metrics

ROWS, BITS, CLIENTS, PARTITIONS = 100_000, 256, 16, 2
_SCRAPE_SECONDS = 1.0
_COLLECTION = "codes"


class _Sink(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
        return trace_service_pb2.ExportTraceServiceResponse()


def measure(seconds: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields the searches per second of each kind, and their ratio to the plain cluster's."""
    yield {"figure": "metrics of one search", "microseconds": round(_counting_us(), 1)}
    with contextlib.ExitStack() as stack:
        sink = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Sink(), sink)
        port = sink.add_insecure_port("127.0.0.1:0")
        sink.start()
        stack.callback(sink.stop, 0)
        otlp = TracingConfig(otlp=f"http://127.0.0.1:{port}")
        clusters = {
            "plain": stack.enter_context(_cluster({})),
            "metrics": stack.enter_context(_cluster({"metrics": True})),
            "metrics and traces": stack.enter_context(_cluster({"metrics": True, "tracing": otlp})),
        }
        rates: dict[str, list[float]] = {kind: [] for kind in clusters}
        for _ in range(rounds):
            for kind, config in clusters.items():
                rates[kind].append(_searches_per_second(config, seconds))
    plain = statistics.median(rates["plain"])
    for kind, found in rates.items():
        yield {
            "figure": kind,
            "searches_per_second": round(statistics.median(found)),
            "of_plain": round(statistics.median(found) / plain, 3),
        }


@contextlib.contextmanager
def _cluster(changes: dict[str, Any]) -> Iterator[ClusterConfig]:
    with tempfile.TemporaryDirectory() as folder:
        config = ephemeral_config(Path(folder), PARTITIONS)
        if changes.pop("metrics", False):
            spare = ephemeral_config(Path(folder), PARTITIONS)
            changes["shard"] = config.shard.model_copy(update={"metrics": spare.shard.address})
            changes["coordinator"] = config.coordinator.model_copy(update={"metrics": spare.coordinator.listen})
        config = config.model_copy(update=changes)
        supervisor = Supervisor(config, Path(folder), print)
        try:
            supervisor.launch()
            supervisor.wait_ready()
            codes = np.random.default_rng(0).integers(0, 256, (ROWS, BITS // 8), np.uint8)
            with Client(config.coordinator.listen) as client:
                client.create_collection(_COLLECTION, bits=BITS)
                records = (Record(f"k{i}", code=code.tobytes()) for i, code in enumerate(codes))
                assert all(outcome.ok for outcome in client.ingest(records, collection=_COLLECTION))
                assert client.search(code=codes[7].tobytes(), k=1, collection=_COLLECTION).hits[0].key == "k7"
            yield config
        finally:
            supervisor.stop()


def _searches_per_second(config: ClusterConfig, seconds: float) -> float:
    done = [0] * CLIENTS
    until = time.monotonic() + seconds
    ended = threading.Event()

    def search(number: int) -> None:
        rng = np.random.default_rng(number)
        with Client(config.coordinator.listen) as client:
            while time.monotonic() < until:
                code = rng.integers(0, 256, BITS // 8, np.uint8).tobytes()
                client.search(code=code, collection=_COLLECTION)
                done[number] += 1

    def scrape() -> None:
        addresses = [config.coordinator.metrics, *(config.shard_metrics(p) for p in range(config.partitions))]
        while not ended.wait(_SCRAPE_SECONDS):
            for address in filter(None, addresses):
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                    answer.read()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(search, range(CLIENTS)))
    ended.set()
    scraper.join()
    return sum(done) / seconds


def _counting_us(times: int = 20_000) -> float:
    """Returns the cost of the coordinator's metrics of one search, in microseconds."""
    began = time.perf_counter()
    for _ in range(times):
        in_flight = metrics.RPCS_IN_FLIGHT.labels("Search")
        in_flight.inc()
        in_flight.dec()
        metrics.RPC_SECONDS.labels("Search", "OK").observe(0.004)
        metrics.QUERIES.labels("c").inc()
        metrics.ANSWERS.labels("c", "complete").inc()
        for stage in (metrics.FAN_OUT_SECONDS, metrics.MERGE_SECONDS, metrics.TOTAL_SECONDS):
            stage.observe(0.004)
        metrics.ROUND_QUERIES.observe(4)
    return (time.perf_counter() - began) / times * 1e6
