"""Several coordinator processes on one port."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest

from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.targets import file_sd
from lookalike.server.config import ClusterConfig, dump_config
from lookalike.transport.channels import open_channel
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.cluster.scraping import running, scrape, value
from tests.cluster.test_up import Up, start_failure
from tests.conftest import Cluster, wait_until

# The probability that all of these connections reach one of two processes is 2 to the power of -39.
CONNECTIONS = 40


def shared_config(data: Path, processes: int = 2) -> ClusterConfig:
    config = ephemeral_config(data, 1)
    metrics = f"{config.coordinator.listen[:-2]}80"
    changes = {"processes": processes, "metrics": metrics}
    return config.model_copy(update={"coordinator": config.coordinator.model_copy(update=changes)})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One partition and two coordinator processes."""
    data = tmp_path_factory.mktemp("shared")
    logged = {"logs": "json", "log_level": "debug"}
    with running(shared_config(data).model_copy(update=logged), data) as cluster:
        yield cluster


def names_of(cluster: Cluster) -> list[str]:
    """The coordinator's processes by number."""
    port = cluster.address.rpartition(":")[2]
    return [f"{socket.gethostname()}:{port}#{number}" for number in range(2)]


def answering(address: str) -> str:
    """The name of the process that answers a new connection."""
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    with open_channel(grpc, address, options=options) as channel:
        answer = SearchServiceStub(channel).ClusterStatus(pb.ClusterStatusRequest(), timeout=20)
    name: str = answer.coordinator.name
    return name


def process_of(client: Client) -> str:
    """The name of the process that the client is connected to."""
    coordinator = client.status().coordinator
    assert coordinator is not None
    return coordinator.name


def answering_web(cluster: Cluster) -> str:
    with urllib.request.urlopen(f"{cluster.config.web_url}/v1/status", timeout=20) as answer:
        name: str = json.load(answer)["coordinator"]["name"]
    return name


def metrics_of(cluster: Cluster, process: int) -> str:
    address = cluster.config.coordinator.metrics_of(process)
    assert address is not None
    return address


def test_connections_reach_every_process(shared: Cluster) -> None:
    assert {answering(shared.address) for _ in range(CONNECTIONS)} == set(names_of(shared))
    counted = [
        value(scrape(metrics_of(shared, process)), "lookalike_rpc_seconds_count", {"rpc": "ClusterStatus"})
        for process in range(2)
    ]
    assert min(counted) > 0
    assert sum(counted) >= CONNECTIONS


def test_connections_to_the_web_port_reach_every_process(shared: Cluster) -> None:
    assert {answering_web(shared) for _ in range(CONNECTIONS)} == set(names_of(shared))


def test_a_log_line_names_its_process(shared: Cluster) -> None:
    assert {answering(shared.address) for _ in range(CONNECTIONS)} == set(names_of(shared))
    for number, name in enumerate(("coordinator", "coordinator-1")):
        lines = (shared.data / "logs" / f"{name}.log").read_text().splitlines()
        assert {json.loads(line)["number"] for line in lines} == {number}


def test_prometheus_scrapes_every_process(shared: Cluster) -> None:
    groups = json.loads(file_sd(shared.config))
    (targets,) = (group["targets"] for group in groups if group["labels"]["job"] == "coordinator")
    assert len(targets) == 2
    assert [value(scrape(target), "lookalike_ready") for target in targets] == [1, 1]


def test_clients_keep_their_answers_when_their_process_dies(shared: Cluster) -> None:
    """The clients of this test share a connection, so all of them use the process that is killed."""
    stopped = threading.Event()
    used: list[str] = []

    def search() -> int:
        answers = 0
        with shared.client() as own:
            used.append(process_of(own))
            while not stopped.is_set():
                assert own.search(code=bytes(8), collection="kept").hits[0].key == "a"
                answers += 1
        return answers

    with shared.client() as client, ThreadPoolExecutor(8) as threads:
        client.create_collection("kept", bits=64)
        client.upsert([Record("a", code=bytes(8))], collection="kept")
        name = process_of(client)
        number = names_of(shared).index(name)
        process = f"coordinator-{number}" if number else "coordinator"
        searching = [threads.submit(search) for _ in range(8)]
        try:
            wait_until(lambda: len(used) == 8, 20)
            assert set(used) == {name}
            old = shared.kill(process)
            for version in range(1, 100):
                record = Record("b", code=bytes(8), attributes={"version": version})
                assert client.upsert([record], collection="kept")
                assert client.get(["b"], collection="kept")[0].attributes["version"] == version
            shared.wait_restarted(process, old)
        finally:
            stopped.set()
        assert all(each.result() for each in searching)
    wait_until(lambda: name in {answering(shared.address) for _ in range(CONNECTIONS)}, 20)
    assert value(scrape(metrics_of(shared, number)), "lookalike_ready") == 1
    assert any(f"{process} (pid {old}) ended: signal SIGKILL" in line for line in shared.reports)
    other = "coordinator" if number else "coordinator-1"
    assert not any(line.startswith(f"{other} ") for line in shared.reports)


def test_up_starts_and_stops_every_process(tmp_path: Path) -> None:
    config = shared_config(tmp_path / "data", processes=3)
    up = Up(tmp_path, dump_config(config))
    assert up.ready().startswith(f"ready: grpc {config.coordinator.listen} ")
    children = psutil.Process(up.process.pid).children(recursive=True)
    names = ["coordinator", "coordinator-1", "coordinator-2", "shard-r0-0"]
    assert sorted(file.stem for file in (up.data / "run").glob("*.pid")) == names
    assert sorted(file.stem for file in (up.data / "logs").glob("*.log")) == names
    sockets = [Path(child.cmdline()[-1]) for child in children if "--socket" in child.cmdline()]
    assert len(sockets) == 3
    assert all(path.is_socket() for path in sockets)
    assert sockets[0].parent.stat().st_mode & 0o077 == 0
    assert up.end(signal.SIGTERM) == 0
    assert not any(child.is_running() for child in children)
    assert not sockets[0].parent.exists()


def taken(address: str, shares: bool) -> socket.socket:
    """Listens at an address, as another program does. shares: whether it lets others share its port."""
    host, _, port = address.rpartition(":")
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
    holder.bind((host, int(port)))
    holder.listen()
    return holder


@pytest.mark.parametrize("field", ["listen", "web"])
@pytest.mark.parametrize(("processes", "shares"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_port_in_use_ends_the_start(tmp_path: Path, processes: int, shares: bool, field: str) -> None:
    config = shared_config(tmp_path / "data", processes)
    address = getattr(config.coordinator, field)
    with taken(address, shares):
        error = start_failure(tmp_path, dump_config(config))
    assert f"coordinator: {address} cannot be bound (Address already in use)" in error


def test_a_metrics_port_in_use_ends_the_start(tmp_path: Path) -> None:
    config = shared_config(tmp_path / "data")
    address = config.coordinator.metrics_of(1)
    assert address is not None
    with taken(address, False):
        error = start_failure(tmp_path, dump_config(config))
    assert f"coordinator-1: {address} cannot be bound (Address already in use)" in error


def coordinator_error(folder: Path, config: ClusterConfig, *options: str) -> str:
    """The error of a coordinator that cannot start."""
    file = folder / "lookalike.yaml"
    file.write_text(dump_config(config))
    command = [sys.executable, "-m", "coordinator", "--config", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize("processes", [1, 2])
def test_a_coordinator_does_not_share_a_port_with_another_program(tmp_path: Path, processes: int) -> None:
    config = shared_config(tmp_path / "data", processes)
    coordinator = config.coordinator
    with taken(coordinator.listen, False):
        assert f"listen: {coordinator.listen} cannot be bound" in coordinator_error(tmp_path, config)
    with taken(coordinator.web, False):
        assert f"coordinator.web: cannot bind {coordinator.web}" in coordinator_error(tmp_path, config)


def test_one_process_does_not_share_its_port_with_several(shared: Cluster, tmp_path: Path) -> None:
    alone = shared.config.coordinator.model_copy(update={"processes": 1})
    config = shared.config.model_copy(update={"coordinator": alone})
    assert f"listen: {shared.address} cannot be bound" in coordinator_error(tmp_path, config)


def test_a_process_must_be_one_of_those_in_the_config(tmp_path: Path) -> None:
    error = coordinator_error(tmp_path, shared_config(tmp_path / "data"), "--process", "2")
    assert "process: 2 is not one of the 2 of coordinator.processes; use 0..1" in error
