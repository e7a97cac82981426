"""Owns `lookalike plan`: the number of shards and machines that a load needs, estimated from this machine's speed
and from measurements.

A shard is one process with one scan thread. Every query goes to every partition, and queries that arrive during a
scan share the next one. So a replica that receives `rate` queries per second settles at batches of b, the smallest
b with rate * T(b) <= b, where T(b) is the duration of a scan for b queries. In the worst case a query waits for
the scan before its own, so almost all are answered within 2 * T(b) plus the overhead (such as the network)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import typer

from lookalike.cli.options import Json, print_json
from lookalike.model.errors import InvalidRequest
from shard.bench.kernel import Bench, random_codes
from shard.bench.timing import best_seconds, processor

# The bytes of a row's id, number, deletion stamp and index entry in memory, in addition to its code.
ROW_BYTES = 24
# Measured with ten million records in two shards: docs/PERFORMANCE.md, "How a collection's cost grows".
# The memory of a shard without rows.
PROCESS_BYTES = 220_000_000
# The bytes of a row on disk, in addition to its code, key and attributes.
DISK_ROW_BYTES = 53
START_SECONDS_PER_ROW = 1.4e-6
FILTER_SECONDS_PER_ROW = 0.16e-6
COORDINATOR_SECONDS_PER_RECORD = 4.0e-6
SHARD_SECONDS_PER_ROW = 5.4e-6
# The share of a machine's memory that shards may fill.
MEMORY_SHARE = 0.7
MAX_PARTITIONS = 1_024
_BATCHES = (1, 4, 16, 64, 256)
_MEGABYTES = 128
_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """The load to carry.

    Attributes:
        qps: Queries per second.
        p99_ms: The latency that 99 % of the queries must not exceed.
        overhead_ms: The part of a query's latency that is not the scan.
        record_bytes: The bytes of a record's key and attributes.
    """

    images: int
    bits: int
    qps: float
    p99_ms: float
    replicas: int
    overhead_ms: float
    record_bytes: int = 65


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    cores: int
    memory_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A deployment.

    Attributes:
        batch: The queries that share a scan.
        scan_ms: How long such a scan takes.
        bound_by: What determines the number of partitions: "memory" or "time".
        disk_bytes_per_shard: The size of a shard's database.
        start_seconds: The time from a shard's start until it has read and checked its rows.
        filter_seconds: How long the first search with a filter on a text attribute without an index takes.
        load_seconds: How long it takes to store all records, with precomputed codes, through one coordinator.
            Several coordinators, each with jobs of its own, share the work.
    """

    partitions: int
    replicas: int
    machines: int
    rows_per_partition: int
    memory_bytes_per_shard: int
    memory_bytes: int
    batch: int
    scan_ms: float
    p99_ms: float
    bound_by: str
    disk_bytes_per_shard: int
    start_seconds: float
    filter_seconds: float
    load_seconds: float


def plan(load: Load, machine: Machine, speeds: Mapping[int, float]) -> Plan:
    """Returns the smallest deployment that carries the load while one replica is down.

    Args:
        speeds: By batch size, the bytes of codes that one thread compares per second.

    Raises:
        InvalidRequest: If no number of partitions is enough.
    """
    rate = load.qps / max(1, load.replicas - 1)
    row_bytes = load.bits // 8 + ROW_BYTES
    share = machine.memory_bytes * MEMORY_SHARE / machine.cores - PROCESS_BYTES
    fitting = math.ceil(load.images * row_bytes / share) if share > 0 else MAX_PARTITIONS + 1
    for partitions in range(1, MAX_PARTITIONS + 1):
        rows = math.ceil(load.images / partitions)
        batch = _settled_batch(rate, rows * load.bits / 8, speeds)
        if batch is None:
            continue
        scan_ms = _scan_seconds(batch, rows * load.bits / 8, speeds) * 1e3
        p99_ms = 2 * scan_ms + load.overhead_ms
        if p99_ms <= load.p99_ms and partitions >= fitting:
            shards = partitions * load.replicas
            per_shard = PROCESS_BYTES + rows * row_bytes
            return Plan(
                partitions, load.replicas, max(load.replicas, math.ceil(shards / machine.cores)), rows, per_shard,
                per_shard * shards, batch, scan_ms, p99_ms, "memory" if partitions == fitting else "time",
                disk_bytes_per_shard=rows * (load.bits // 8 + load.record_bytes + DISK_ROW_BYTES),
                start_seconds=rows * START_SECONDS_PER_ROW,
                filter_seconds=rows * FILTER_SECONDS_PER_ROW,
                load_seconds=max(
                    load.images * load.replicas * COORDINATOR_SECONDS_PER_RECORD, rows * SHARD_SECONDS_PER_ROW
                ),
            )  # fmt: skip
    raise InvalidRequest(
        f"plan: {MAX_PARTITIONS:,} partitions, the maximum, are not enough; allow more time (--p99-ms), or use"
        f" more replicas (--replicas), fewer bits (--bits) or larger machines (--memory-gb)"
    )


def _settled_batch(rate: float, code_bytes: float, speeds: Mapping[int, float]) -> int | None:
    """Returns the batch size at which a shard keeps up with `rate` queries per second, or None if none is
    enough."""
    for batch in range(1, max(speeds) + 1):
        if rate * _scan_seconds(batch, code_bytes, speeds) <= batch:
            return batch
    return None


def _scan_seconds(batch: int, code_bytes: float, speeds: Mapping[int, float]) -> float:
    sizes = sorted(speeds)
    speed = float(np.interp(np.log(batch), np.log(sizes), [speeds[size] for size in sizes]))
    return batch * code_bytes / speed


def measure(bits: int) -> dict[int, float]:
    """Measures the bytes of codes that one thread compares per second on this machine, by batch size."""
    bench = Bench.of(random_codes(bits, _MEGABYTES * 2**20 * 8 // bits), compare=False)
    return {
        batch: batch * bench.codes.nbytes / best_seconds({"own": bench.own(batch)}, _SECONDS)["own"]
        for batch in _BATCHES
    }


def command(
    images: Annotated[float, typer.Option(min=1, help="Total number of records, such as 1e9.")],
    bits: Annotated[int, typer.Option(min=16, max=8192, help="Bits per code.")] = 256,
    qps: Annotated[float, typer.Option(min=0.001, help="Queries per second.")] = 100,
    p99_ms: Annotated[float, typer.Option(min=1, help="99th-percentile latency, in ms.")] = 100,
    replicas: Annotated[int, typer.Option(min=1, max=16, help="Replicas of each partition; one may be down.")] = 2,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores per machine; default: this machine's.")] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="Memory per machine in GB; default: this machine's.")
    ] = None,
    overhead_ms: Annotated[float, typer.Option(min=0, help="Latency in addition to the scan, in ms.")] = 15,
    record_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a record's key and attributes.")] = 65,
    as_json: Json = False,
) -> None:
    """Estimate the shards, machines, memory and disk that a load needs, from this machine's scan speed and from a
    measurement of ten million records. Encoding is not included."""
    if not math.isfinite(images * qps):
        raise InvalidRequest("images, qps: must be finite; use smaller numbers")
    if bits % 8:
        raise InvalidRequest(f"bits: {bits} is not a multiple of 8; use one that is")
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if memory_gb is None else int(memory_gb * 1e9)
    )
    machine = Machine(cores or os.cpu_count() or 1, memory)
    load = Load(int(images), bits, qps, p99_ms, replicas, overhead_ms, record_bytes)
    speeds = measure(bits)
    made = plan(load, machine, speeds)
    if as_json:
        print_json({**dataclasses.asdict(made), "bytes_compared_a_second": speeds, "processor": processor()})
        return
    print("\n".join(_explain(load, machine, speeds, made)))


def _explain(load: Load, machine: Machine, speeds: Mapping[int, float], made: Plan) -> list[str]:
    measured = ", ".join(f"{speed / 1e9:.1f} in batches of {batch}" for batch, speed in speeds.items())
    carried = (
        f"{max(1, load.replicas - 1)} of {load.replicas} replicas" if load.replicas > 1 else "the one replica"
    )
    return [
        f"partitions: {made.partitions}    replicas: {made.replicas}    machines like this: {made.machines}",
        f"memory: {made.memory_bytes_per_shard / 1e9:.1f} GB per shard, {made.memory_bytes / 1e9:.1f} GB in total",
        f"disk: {made.disk_bytes_per_shard / 1e9:.1f} GB per shard, without features and thumbnails",
        f"start of a shard: {_duration(made.start_seconds)}    first search with a filter on a text without an"
        f" index: {_duration(made.filter_seconds)}    storing all codes through one coordinator:"
        f" {_duration(made.load_seconds)}",
        "",
        f"Measured here, one thread on {processor()}:",
        f"  GB of {load.bits}-bit codes compared per second: {measured}",
        "Reasoning:",
        f"  A row takes {load.bits // 8} bytes of code and {ROW_BYTES} of id, number, deletion stamp and index;"
        f" a shard takes {PROCESS_BYTES / 1e6:.0f} MB besides. A machine runs one shard on each of {machine.cores}"
        f" cores; shards may fill {MEMORY_SHARE:.0%} of its {machine.memory_bytes / 1e9:.0f} GB.",
        f"  {made.rows_per_partition:,} rows per partition; {load.qps:g} queries per second on {carried}"
        f" settle at batches of {made.batch}, a scan of {made.scan_ms:.1f} ms.",
        f"  A query waits for one scan, then takes part in the next: {made.p99_ms:.0f} ms, including"
        f" {load.overhead_ms:g} ms overhead; the limit is {load.p99_ms:g} ms."
        f" The {made.bound_by} determines the number of partitions.",
        "  Cores of one machine share its memory bandwidth: scans on all cores at once are slower than one alone.",
        "  Disk, start, filter and storing come from ten million records that were measured on two cores of an AMD"
        " EPYC (docs/PERFORMANCE.md).",
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
