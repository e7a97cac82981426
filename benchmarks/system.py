"""Lookalike against a hand-written FAISS cluster (`faiss_cluster`): four shards, a coordinator and random 256-bit
codes in both, the same requests from the same load generator, in one run. For one client there is also a cluster
that does nothing but pass messages and scan (`bare_cluster`).

All clusters run throughout; one at a time is loaded, in alternating rounds. A figure is the median of the rounds,
a ratio the median of the ratios of each round, since noise affects adjacent measurements alike. The load generator
is a separate process that sends pre-serialised requests and does not decode the answers, so that the CPU time goes
to the clusters. Every client has its own connection."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import bare_cluster, faiss_cluster
from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.model.codespace import CodeSpace
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1.record_pb2 import Hit
from lookalike.v1.search_pb2 import Query, SearchBatchRequest, SearchOptions, SearchRequest
from lookalike.v1.search_pb2_grpc import SearchServiceStub

ROWS, SECONDS, ROUNDS = 1_000_000, 5.0, 3
BITS, SHARDS, K = 256, 4, 10
COLLECTION = "codes"
CHECKED_QUERIES, REQUESTS, WARM_UP_SECONDS = 50, 256, 0.5
UPSERT_ROWS = 10_000
SYSTEMS = ("lookalike", "faiss")
BARE = "bare"

Codes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load: concurrent clients, and queries per request."""

    name: str
    clients: int
    queries: int


ONE = Cell("Search, 1 client", 1, 1)
MANY = Cell("Search, 64 clients", 64, 1)
BATCH = Cell("SearchBatch of 64, 1 client", 1, 64)
BATCHES = Cell("SearchBatch of 64, 4 clients", 4, 64)
CELLS = (ONE, MANY, BATCH, BATCHES)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """The result of one cell in one round, or the median of the rounds."""

    queries_per_second: float
    p50_ms: float
    p99_ms: float
    # Processor time a query, in microseconds: of the coordinator, and of all shards together.
    coordinator_us: float = 0.0
    shards_us: float = 0.0

    @property
    def servers_us(self) -> float:
        return self.coordinator_us + self.shards_us


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """A ratio of Lookalike to FAISS, and the project's target for it."""

    name: str
    cell: Cell
    figure: Callable[[Sample], float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def text(self) -> str:
        return f"<= {self.at_most:g}" if self.at_least is None else f">= {self.at_least:g}"

    def is_met(self, ratio: float) -> bool:
        return (self.at_least or 0.0) <= ratio <= (self.at_most or np.inf)


BARS = (
    Bar("throughput, 64 clients", MANY, lambda sample: sample.queries_per_second, at_least=5),
    Bar("p99, 64 clients", MANY, lambda sample: sample.p99_ms, at_most=0.5),
    Bar("SearchBatch throughput, 1 client", BATCH, lambda sample: sample.queries_per_second, at_least=4),
    Bar("SearchBatch throughput, 4 clients", BATCHES, lambda sample: sample.queries_per_second, at_least=4),
    Bar("p50, 1 client", ONE, lambda sample: sample.p50_ms, at_most=0.85),
    Bar("processor time a query, 1 client", ONE, lambda sample: sample.servers_us, at_most=0.85),
    Bar("processor time a query, 64 clients", MANY, lambda sample: sample.servers_us, at_most=0.5),
)

# Processes by kind: "coordinator" and "shards".
Processes = dict[str, list[psutil.Process]]


@dataclasses.dataclass(frozen=True, slots=True)
class System:
    """A running cluster: where it listens, and its processes."""

    address: str
    processes: Processes

    def seconds_used(self) -> dict[str, float]:
        """Processor time that each kind of process has used."""
        return {
            kind: sum(sum(process.cpu_times()[:2]) for process in processes)
            for kind, processes in self.processes.items()
        }


Samples = dict[tuple[str, Cell], list[Sample]]


def measure(rows: int, seconds: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields the medians of every cell in both systems, then the ratios, and prints a table to standard error."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (rows, BITS // 8), np.uint8)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as clusters:
        folder = Path(name)
        np.save(folder / "codes.npy", codes)
        ours = clusters.enter_context(_lookalike(folder / "cluster"))
        started = time.perf_counter()
        _fill(ours.address, codes)
        yield {"figure": "load", "rows": rows, "rows_per_second": round(rows / (time.perf_counter() - started))}
        theirs = ephemeral_config(folder, SHARDS)
        processes = clusters.enter_context(faiss_cluster.running(theirs, folder / "codes.npy"))
        systems = dict(zip(SYSTEMS, (ours, System(theirs.coordinator.listen, processes)), strict=True))
        bare = ephemeral_config(folder, SHARDS)
        processes = clusters.enter_context(
            faiss_cluster.running(bare, folder / "codes.npy", bare_cluster.__name__)
        )
        systems[BARE] = System(bare.coordinator.listen, processes)
        _check(systems, codes, rng.integers(0, 256, (CHECKED_QUERIES, BITS // 8), np.uint8))
        samples = _measure_rounds(systems, seconds, rounds)
    yield from _figures(samples)
    _show(samples)


@contextlib.contextmanager
def _lookalike(folder: Path) -> Iterator[System]:
    """Runs a local cluster without an encoder."""
    config = ephemeral_config(folder, SHARDS)
    supervisor = Supervisor(config, folder, lambda line: print(line, file=sys.stderr))
    try:
        supervisor.launch()
        supervisor.wait_ready()
        pids = {file.stem: int(file.read_text()) for file in (folder / "run").glob("*.pid")}
        coordinator = [psutil.Process(pids.pop("coordinator"))]
        yield System(
            config.coordinator.listen,
            {"coordinator": coordinator, "shards": list(map(psutil.Process, pids.values()))},
        )
    finally:
        supervisor.stop()


def _fill(address: str, codes: Codes) -> None:
    with Client(address) as client:
        client.create_collection(COLLECTION, bits=BITS)
        for start in range(0, len(codes), UPSERT_ROWS):
            part = codes[start : start + UPSERT_ROWS]
            records = [Record(f"k{row}", code=code.tobytes()) for row, code in enumerate(part, start)]
            assert client.upsert(records, collection=COLLECTION) == len(part)


def _check(systems: dict[str, System], codes: Codes, queries: Codes) -> None:
    """Verifies that the systems return the same distances for single queries, and all but `bare` for batches, and
    that they are correct."""
    found = [_distances(system.address, codes, queries, name != BARE) for name, system in systems.items()]
    assert all(distances == found[0] for distances in found), "the systems' answers differ"


def _distances(address: str, codes: Codes, queries: Codes, has_batches: bool) -> list[list[int]]:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = SearchServiceStub(channel)
        alone = [list(stub.Search(_search_request(query)).hits) for query in queries]
        results = stub.SearchBatch(_batch_request(queries)).results if has_batches else []
        together = [list(result.hits) for result in results] or alone
    for query, hits in zip(queries, alone, strict=True):
        rows = [int(hit.key.removeprefix("k")) for hit in hits]
        expected = np.bitwise_count(codes[rows] ^ query).sum(axis=1, dtype=int).tolist()
        assert _distances_of(hits) == expected, "a hit has a wrong distance"
    distances = list(map(_distances_of, alone))
    assert distances == list(map(_distances_of, together)), "a batch's answers differ from those of single queries"
    return distances


def _distances_of(hits: Sequence[Hit]) -> list[int]:
    return [hit.distance for hit in hits]


def _measure_rounds(systems: dict[str, System], seconds: float, rounds: int) -> Samples:
    samples: Samples = {}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as generator:
        for number in range(rounds):
            for cell in CELLS:
                names = [name for name in systems if name != BARE or cell == ONE]
                for name in names if number % 2 == 0 else names[::-1]:
                    system = systems[name]
                    before = system.seconds_used()
                    sample = generator.submit(load, system.address, cell, seconds).result()
                    queries = sample.queries_per_second * (seconds + WARM_UP_SECONDS)
                    used = {
                        f"{kind}_us": 1e6 * (after - before[kind]) / queries
                        for kind, after in system.seconds_used().items()
                    }
                    samples.setdefault((name, cell), []).append(dataclasses.replace(sample, **used))
    return samples


def load(address: str, cell: Cell, seconds: float) -> Sample:
    """Loads a coordinator with closed-loop clients; counts the answers within `seconds` after a warm-up."""
    sample: Sample = uvloop.run(_load(address, cell, seconds))
    return sample


async def _load(address: str, cell: Cell, seconds: float) -> Sample:
    requests = _serialised(cell)
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    method = "Search" if cell.queries == 1 else "SearchBatch"
    latencies: list[float] = []
    async with contextlib.AsyncExitStack() as channels:
        calls: list[Any] = []
        for _ in range(cell.clients):
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            await channel.channel_ready()
            calls.append(channel.unary_unary(f"/lookalike.v1.SearchService/{method}"))
        counted_from = time.perf_counter() + WARM_UP_SECONDS
        counted_until = counted_from + seconds

        async def be_client(number: int) -> None:
            sent = 0
            while (started := time.perf_counter()) < counted_until:
                await calls[number](requests[(number + sent * cell.clients) % len(requests)])
                ended = time.perf_counter()
                sent += 1
                if counted_from <= ended <= counted_until:
                    latencies.append(ended - started)

        await asyncio.gather(*map(be_client, range(cell.clients)))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Sample(len(latencies) * cell.queries / seconds, float(p50), float(p99))


def _serialised(cell: Cell) -> list[bytes]:
    """Returns the cell's requests, serialised; the same on every call."""
    codes = np.random.default_rng(1).integers(0, 256, (REQUESTS, cell.queries, BITS // 8), np.uint8)
    if cell.queries == 1:
        return [_search_request(code).SerializeToString() for (code,) in codes]
    return [_batch_request(batch).SerializeToString() for batch in codes]


def _search_request(code: Codes) -> SearchRequest:
    return SearchRequest(
        collection=COLLECTION,
        query=Query(code=code.tobytes()),
        options=SearchOptions(k=K),
        fingerprint=CodeSpace(BITS).fingerprint,
    )


def _batch_request(codes: Codes) -> SearchBatchRequest:
    return SearchBatchRequest(
        collection=COLLECTION,
        queries=[Query(code=code.tobytes()) for code in codes],
        options=SearchOptions(k=K),
        fingerprint=CodeSpace(BITS).fingerprint,
    )


def _median(samples: Sequence[Sample]) -> Sample:
    return Sample(*np.median([dataclasses.astuple(sample) for sample in samples], axis=0).tolist())


def _ratio(samples: Samples, bar: Bar, system: str = SYSTEMS[0]) -> float:
    ours, theirs = (map(bar.figure, samples[name, bar.cell]) for name in (system, SYSTEMS[1]))
    return float(np.median([a / b for a, b in zip(ours, theirs, strict=True)]))


def _figures(samples: Samples) -> Iterator[dict[str, Any]]:
    for (system, cell), values in samples.items():
        rounded = {name: round(value, 2) for name, value in dataclasses.asdict(_median(values)).items()}
        yield {"figure": cell.name, "system": system, **rounded}
    for bar in BARS:
        ratio = _ratio(samples, bar)
        yield {"figure": bar.name, "ratio": round(ratio, 2), "bar": bar.text, "met": bar.is_met(ratio)}
        if bar.cell == ONE:
            yield {"figure": bar.name, "system": BARE, "ratio": round(_ratio(samples, bar, BARE), 2)}


def _show(samples: Samples) -> None:
    cells = Table("load", "system", title=f"{SHARDS} shards, {BITS} bits, k = {K}")
    for heading in ("queries/s", "p50 ms", "p99 ms", "coordinator, µs a query", "shards, µs a query"):
        cells.add_column(heading, justify="right")
    for (system, cell), values in sorted(samples.items(), key=lambda item: CELLS.index(item[0][1])):
        middle = _median(values)
        figures = f"{middle.queries_per_second:,.0f}", f"{middle.p50_ms:.2f}", f"{middle.p99_ms:.2f}"
        figures += f"{middle.coordinator_us:,.0f}", f"{middle.shards_us:,.0f}"
        cells.add_row(cell.name, system, *figures)
    ratios = Table("lookalike / faiss", "ratio", "bar", "", "bare / faiss")
    for bar in BARS:
        ratio = _ratio(samples, bar)
        bare = f"{_ratio(samples, bar, BARE):.2f}" if bar.cell == ONE else ""
        ratios.add_row(bar.name, f"{ratio:.2f}", bar.text, "met" if bar.is_met(ratio) else "missed", bare)
    Console(stderr=True).print(cells, ratios)
