"""The cost of failures in a cluster with two replicas: Search while one replica is stopped or down, against Search
without failures, in one run; and the time until a killed replica with all the records serves again.

The calls are plain gRPC without retries: a client that retries sees fewer failures. A stopped replica (SIGSTOP)
neither answers nor refuses connections, the worst case; a replica that is down is killed (SIGKILL) every time it
restarts."""

from __future__ import annotations

import dataclasses
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1.search_pb2 import Query, SearchOptions, SearchRequest
from lookalike.v1.search_pb2_grpc import SearchServiceStub

ROWS, SECONDS = 1_000_000, 10.0
BITS, K, CLIENTS = 256, 10, 4
_COLLECTION = "codes"
_AFFECTED = "shard-r1-0"
_CALL_SECONDS = 5.0
_SETTLE_SECONDS = 3.0


@dataclasses.dataclass(slots=True)
class _Load:
    """Closed-loop clients, each with its own connection."""

    address: str
    fingerprint: str
    latencies: list[float] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._client, args=(seed, until)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, seed: int, until: float) -> None:
        rng = np.random.default_rng(seed)
        with grpc.insecure_channel(self.address, options=[*CHANNEL_OPTIONS, ("local", seed)]) as channel:
            stub = SearchServiceStub(channel)
            while time.monotonic() < until:
                code = rng.integers(0, 256, BITS // 8, np.uint8).tobytes()
                request = SearchRequest(
                    collection=_COLLECTION, query=Query(code=code), options=SearchOptions(k=K),
                    fingerprint=self.fingerprint,
                )  # fmt: skip
                began = time.monotonic()
                try:
                    stub.Search(request, timeout=_CALL_SECONDS)
                except grpc.RpcError as error:
                    self.failures.append(str(error.code()))
                self.latencies.append(time.monotonic() - began)

    def figures(self, name: str) -> dict[str, Any]:
        ordered = sorted(self.latencies)
        return {
            "figure": name,
            "searches": len(ordered),
            "failed": len(self.failures),
            "availability": round(1 - len(self.failures) / len(ordered), 5),
            "p50_ms": round(statistics.median(ordered) * 1000, 2),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        }


def measure(rows: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Measures two replicas of one partition with `rows` codes of 256 bits; each load lasts `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        config = ephemeral_config(data, 1, replicas=2)
        supervisor = Supervisor(config, data, lambda line: None)
        watcher = threading.Thread(target=supervisor.watch)
        try:
            supervisor.launch()
            supervisor.wait_ready()
            watcher.start()
            with Client(config.coordinator.listen, timeout=60) as client:
                fingerprint = _fill(client, rows)
                yield from _measure(client, config.coordinator.listen, fingerprint, data, seconds)
        finally:
            supervisor.ask_to_stop()
            if watcher.is_alive():
                watcher.join()
            supervisor.stop()


def _measure(
    client: Client, address: str, fingerprint: str, data: Path, seconds: float
) -> Iterator[dict[str, Any]]:
    def load(name: str) -> dict[str, Any]:
        clients = _Load(address, fingerprint)
        clients.run(seconds)
        return clients.figures(name)

    load("warm-up")
    quiet = load("quiet")
    yield quiet

    pid = _pid(data)
    os.kill(pid, signal.SIGSTOP)
    stopped = load("one replica stopped")
    os.kill(pid, signal.SIGCONT)
    yield {**stopped, "p99_to_quiet": round(stopped["p99_ms"] / quiet["p99_ms"], 2)}

    _wait_serving(client)
    old = _pid(data)
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()
    _wait(lambda: _pid(data) != old)
    _wait_serving(client)
    rows = client.get_collection(_COLLECTION).rows
    yield {"figure": "killed replica ready", "rows": rows, "seconds": round(time.monotonic() - began, 2)}

    # This load comes last: the supervisor backs off from restarting a process that dies repeatedly.
    time.sleep(_SETTLE_SECONDS)
    ended = threading.Event()
    killer = threading.Thread(target=_keep_down, args=(data, ended))
    killer.start()
    down = load("one replica down")
    ended.set()
    killer.join()
    yield {**down, "p99_to_quiet": round(down["p99_ms"] / quiet["p99_ms"], 2)}


def _fill(client: Client, rows: int) -> str:
    fingerprint = client.create_collection(_COLLECTION, bits=BITS).code_space.fingerprint
    codes = np.random.default_rng(0).integers(0, 256, (rows, BITS // 8), np.uint8)
    records = (Record(f"k{i}", code=codes[i].tobytes()) for i in range(rows))
    for outcome in client.ingest(records, collection=_COLLECTION):
        if outcome.error is not None:
            raise outcome.error
    return fingerprint


def _keep_down(data: Path, ended: threading.Event) -> None:
    killed = 0
    while not ended.wait(0.05):
        pid = _pid(data)
        if pid != killed:
            os.kill(pid, signal.SIGKILL)
            killed = pid


def _pid(data: Path) -> int:
    """Returns the pid of the affected replica. The pid file may be empty for a moment after a start."""
    while not (text := (data / "run" / f"{_AFFECTED}.pid").read_text()):
        time.sleep(0.01)
    return int(text)


def _wait_serving(client: Client) -> None:
    def serving() -> bool:
        replicas = [replica for part in client.status().partitions for replica in part.replicas]
        return all(replica.state == "serving" for replica in replicas)

    _wait(serving)


def _wait(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"condition not met within 2 minutes: {condition}")
        time.sleep(0.05)
