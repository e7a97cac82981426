"""Owns `lookalike plan`: how many shards, replicas and machines a load needs, reckoned from this machine's speed.

A shard is one process with one scan thread. Every query goes to every partition, and queries that come while a
scan runs share the next one. So a replica that gets `rate` queries a second settles at batches of b, the least b
with rate * T(b) <= b, where T(b) is the time of a scan for b queries; a query waits for the scan before its own at
worst, so all but few are answered within 2 * T(b) and the way through the network."""

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

# Beside the code a row takes an id, a number and a deletion stamp in memory; the share is for all else there.
ROW_BYTES = 16
MEMORY_SHARE = 0.7
MAX_PARTITIONS = 1_024
_BATCHES = (1, 4, 16, 64, 256)
_MEGABYTES = 128
_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What is asked for. overhead_ms: what of a query's time is not the scan."""

    images: int
    bits: int
    qps: float
    p99_ms: float
    replicas: int
    overhead_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    cores: int
    memory_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
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


def plan(load: Load, machine: Machine, speeds: Mapping[int, float]) -> Plan:
    """The least partitions that carry the load while one replica is down. speeds: bytes of codes compared a second
    by one thread, by batch. Raises InvalidRequest if no number of partitions would do."""
    rate = load.qps / max(1, load.replicas - 1)
    row_bytes = load.bits // 8 + ROW_BYTES
    share = machine.memory_bytes * MEMORY_SHARE / machine.cores
    fitting = math.ceil(load.images * row_bytes / share)
    for partitions in range(1, MAX_PARTITIONS + 1):
        rows = math.ceil(load.images / partitions)
        batch = _settled_batch(rate, rows * load.bits / 8, speeds)
        if batch is None:
            continue
        scan_ms = _scan_seconds(batch, rows * load.bits / 8, speeds) * 1e3
        p99_ms = 2 * scan_ms + load.overhead_ms
        if p99_ms <= load.p99_ms and partitions >= fitting:
            shards = partitions * load.replicas
            per_shard = rows * row_bytes
            return Plan(
                partitions, load.replicas, max(load.replicas, math.ceil(shards / machine.cores)), rows, per_shard,
                per_shard * shards, batch, scan_ms, p99_ms, "memory" if partitions == fitting else "time",
            )  # fmt: skip
    raise InvalidRequest(
        f"plan: {MAX_PARTITIONS:,} partitions, the most there can be, are not enough; allow more time"
        f" (--p99-ms), more replicas (--replicas), fewer bits, or larger machines (--memory-gb)"
    )


def _settled_batch(rate: float, code_bytes: float, speeds: Mapping[int, float]) -> int | None:
    """The batch at which a shard keeps up with so many queries a second, or None if it never does."""
    for batch in range(1, max(speeds) + 1):
        if rate * _scan_seconds(batch, code_bytes, speeds) <= batch:
            return batch
    return None


def _scan_seconds(batch: int, code_bytes: float, speeds: Mapping[int, float]) -> float:
    sizes = sorted(speeds)
    speed = float(np.interp(np.log(batch), np.log(sizes), [speeds[size] for size in sizes]))
    return batch * code_bytes / speed


def measure(bits: int) -> dict[int, float]:
    """Bytes of codes that one thread compares a second on this machine, by batch."""
    bench = Bench.of(random_codes(bits, _MEGABYTES * 2**20 * 8 // bits), compare=False)
    return {
        batch: batch * bench.codes.nbytes / best_seconds({"own": bench.own(batch)}, _SECONDS)["own"]
        for batch in _BATCHES
    }


def command(
    images: Annotated[float, typer.Option(min=1, help="Records in all, such as 1e9.")],
    bits: Annotated[int, typer.Option(min=16, max=8192, help="Width of a code.")] = 256,
    qps: Annotated[float, typer.Option(min=0.001, help="Queries a second.")] = 100,
    p99_ms: Annotated[float, typer.Option(min=1, help="Time in which 99 of 100 queries are answered.")] = 100,
    replicas: Annotated[int, typer.Option(min=1, max=16, help="Copies; the load is carried with one down.")] = 2,
    cores: Annotated[int | None, typer.Option(min=1, help="Of a machine; by default this one's.")] = None,
    memory_gb: Annotated[float | None, typer.Option(min=0.1, help="Of a machine; by default this one's.")] = None,
    overhead_ms: Annotated[float, typer.Option(min=0, help="Of a query's time, what is not the scan.")] = 15,
    as_json: Json = False,
) -> None:
    """Reckon shards, replicas and memory for a load from the scan's speed on this machine, without encoding."""
    if not math.isfinite(images * qps):
        raise InvalidRequest("images, qps: must be numbers, not infinite ones")
    if bits % 8:
        raise InvalidRequest(f"bits: {bits} is not a multiple of 8")
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if memory_gb is None else int(memory_gb * 1e9)
    )
    machine = Machine(cores or os.cpu_count() or 1, memory)
    load = Load(int(images), bits, qps, p99_ms, replicas, overhead_ms)
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
        f"memory: {made.memory_bytes_per_shard / 1e9:.1f} GB a shard, {made.memory_bytes / 1e9:.1f} GB in all",
        "",
        f"Measured here, one thread on {processor()}:",
        f"  GB of {load.bits}-bit codes compared a second: {measured}",
        "Reasoning:",
        f"  A row takes {load.bits // 8} bytes of code and {ROW_BYTES} of id, number and stamp;"
        f" a machine's {machine.cores} cores hold a shard each in {MEMORY_SHARE:.0%} of"
        f" {machine.memory_bytes / 1e9:.0f} GB.",
        f"  {made.rows_per_partition:,} rows a partition; {load.qps:g} queries a second on {carried}"
        f" settle at batches of {made.batch}, a scan of {made.scan_ms:.1f} ms.",
        f"  A query waits for one scan and has its own: {made.p99_ms:.0f} ms with {load.overhead_ms:g} ms for the"
        f" rest, of {load.p99_ms:g} ms allowed. The {made.bound_by} decides the partitions.",
        "  Cores of one machine share its memory: single queries on all at once run slower than one alone.",
    ]
