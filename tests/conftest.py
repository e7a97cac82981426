"""Owns what tests share: real clusters of processes on free ports, and real photographs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, settings

from lookalike import Client
from lookalike.local import ephemeral
from lookalike.local import process as spawner
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig, EncoderConfig, TracingConfig
from lookalike.transport.channels import open_channel
from lookalike.transport.tls import Tls, channel_credentials
from tests import preloaded, units
from tests.ray_head import ray_head
from tests.spans import Collector, collecting

# The processes of test clusters are forked from processes that have imported them.
assert hasattr(spawner, "subprocess")
spawner.subprocess = preloaded

# On a shared machine, the duration of an example says nothing.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Gives parallel workers disjoint port ranges, and restores SIGINT for child processes, because a shell makes
    background commands ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        ephemeral._THOUSANDS = ephemeral._THOUSANDS[int(worker.removeprefix("gw")) :: count]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> units.UnitScheduling:
    return units.UnitScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest units first, and fails if a test that starts Ray is in another unit."""
    for item in items:
        uses_ray = not {"encoder_cluster", "ray"}.isdisjoint(getattr(item, "fixturenames", ()))
        if uses_ray and units.unit_of(item.nodeid) != units.ENCODER:
            raise pytest.UsageError(f"{item.nodeid}: add it to the encoder unit in tests/units.py")
    items.sort(key=units.start_order)


# Stops the encoder cluster and the jobs' Ray: an idle Ray takes a tenth of a core until the end of the session.
_encoder_cluster = contextlib.ExitStack()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    following = None if nextitem is None else units.unit_of(nextitem.nodeid)
    if units.unit_of(item.nodeid) == units.ENCODER != following:
        _encoder_cluster.close()


class Cluster:
    """A running cluster with its supervisor restarting what dies."""

    def __init__(self, config: ClusterConfig, data: Path) -> None:
        self.config = config
        self.data = data
        self.address = config.coordinator.listen
        self.reports: list[str] = []
        self._supervisor = Supervisor(config, data, self.reports.append)
        self._watcher = threading.Thread(target=self._supervisor.watch)

    def start(self) -> None:
        self._supervisor.launch()
        self._supervisor.wait_ready()
        self._watcher.start()

    def stop(self) -> None:
        self._supervisor.ask_to_stop()
        if self._watcher.is_alive():
            self._watcher.join()
        self._supervisor.stop()

    @property
    def config_file(self) -> Path:
        return self._supervisor.config_file

    def pid(self, name: str) -> int:
        return int((self.data / "run" / f"{name}.pid").read_text())

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a process; returns the pid that it had."""
        pid = self.pid(name)
        psutil.Process(pid).send_signal(number)
        return pid

    def wait_restarted(self, name: str, old_pid: int) -> None:
        """Waits until another process runs under that name and the whole cluster serves."""

        def restarted() -> bool:
            if self.pid(name) == old_pid:
                return False
            try:
                with self.client(timeout=5) as client:
                    status = client.status()
            except LookalikeError:
                return False
            return all(replica.state == "serving" for part in status.partitions for replica in part.replicas)

        wait_until(restarted, 60)

    def reload(self, config: ClusterConfig) -> None:
        """Makes the cluster apply another config."""
        self.config = config
        self._supervisor.reload(config)

    def client(self, timeout: float = 30) -> Client:
        return Client(self.address, timeout=timeout)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Polls until a condition holds. Fails the test after three times `seconds`, the most that an idle machine
    needs."""
    deadline = time.monotonic() + 3 * seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {3 * seconds} s: {condition}"
        time.sleep(0.05)


@contextlib.contextmanager
def running_cluster(
    data: Path, partitions: int, encoder: EncoderConfig | None = None, replicas: int = 1
) -> Iterator[Cluster]:
    cluster = Cluster(ephemeral_config(data, partitions, encoder, replicas=replicas), data)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def small_encoder(weights: Path) -> EncoderConfig:
    """An encoder with random weights, which are written to a file."""
    import torch
    import torchvision

    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), weights)
    return EncoderConfig(model="mobilenet_v3_small", weights=str(weights), bits=64)


@contextlib.contextmanager
def second_coordinator(cluster: Cluster, tls: Tls | None = None) -> Iterator[str]:
    """The address of another coordinator of the same cluster. tls: to ask for its health."""
    with coordinator_process(cluster, tls) as (address, _):
        yield address


@contextlib.contextmanager
def coordinator_process(cluster: Cluster, tls: Tls | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Another coordinator of the same cluster, on its own ports. It is not restarted when it dies."""
    spare = ephemeral_config(cluster.data, 1).coordinator
    environment = {
        **os.environ,
        "LOOKALIKE__COORDINATOR__LISTEN": spare.listen,
        "LOOKALIKE__COORDINATOR__WEB": spare.web,
    }
    command = [sys.executable, "-m", "coordinator", "--config", str(cluster.config_file)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            with open_channel(grpc, spare.listen, tls and channel_credentials(tls)) as channel:
                request = health_pb2.HealthCheckRequest()
                health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True, timeout=20)
            yield spare.listen, process
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three partitions without an encoder. Tests create their own collections in it, and kill nothing."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), partitions=3) as running:
        yield running


@pytest.fixture(scope="session")
def encoder_spans() -> Iterator[Collector]:
    """The spans of the processes of `encoder_cluster`."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def encoder_cluster(encoder_spans: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two partitions and two encoders on Ray, with metrics and tracing enabled. The encoder "small" is a smaller
    network with random weights."""
    data = tmp_path_factory.mktemp("encoders")
    further = {"small": small_encoder(data / "small.pth")}
    config = ephemeral_config(data, 2, EncoderConfig(bits=256), encoders=further)
    assert config.encoder is not None
    encoder = config.encoder.model_copy(update={"metrics": f"{config.coordinator.listen[:-2]}95"})
    tracing = TracingConfig(otlp=encoder_spans.address)
    cluster = Cluster(config.model_copy(update={"encoder": encoder, "tracing": tracing}), data)
    _encoder_cluster.callback(cluster.stop)
    cluster.start()
    yield cluster
    _encoder_cluster.close()


@pytest.fixture(scope="session")
def ray() -> Mapping[str, str]:
    """The environment variables that make an image job join a running Ray cluster."""
    return _encoder_cluster.enter_context(ray_head())


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def collection(request: pytest.FixtureRequest, client: Client) -> str:
    """An empty collection of 64-bit codes, named after the test."""
    name = "".join(mark if mark.isalnum() else "-" for mark in request.node.name)[:100]
    client.create_collection(name, bits=64)
    return name


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty views of ten real photographs, in one folder per photograph."""
    from lab.demo.photographs import bundled_photographs, write_views

    folder = tmp_path_factory.mktemp("photographs")
    for photograph in bundled_photographs()[:10]:
        assert len(list(write_views(photograph, range(4), "test", folder))) == 4
    return folder
