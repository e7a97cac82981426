"""No background task of a server process ends unnoticed: it recovers, or the process says why and exits."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import pytest
import yaml

from lookalike.local.ephemeral import ephemeral_config
from lookalike.server.config import ClusterConfig, EncoderConfig, dump_config
from lookalike.server.lifecycle import EXIT_BACKGROUND_FAILED
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from tests import preloaded
from tests.conftest import wait_until
from tests.faults.test_full_disk import small_disk  # noqa: F401 -- a fixture

RECONCILER = "shard.replication.reconciler:Reconciler.run"
SCRUBBER = "shard.scrub:Scrubber.run"
FOLLOWER = "lookalike.server.config_follower:ConfigFollower.run"
CLUSTER_POLL = "coordinator.cluster:Cluster._poll"
HEALTH_WATCH = "coordinator.replica:Replica.watch"
REPLICA_WATCH = "encoder.deployment:ReplicaWatch.run"
SHARD = ("--partition", "0")


@dataclasses.dataclass
class Running:
    """A server process, its config file and what it wrote to standard error."""

    popen: subprocess.Popen[bytes]
    config: Path
    log: Path

    @property
    def errors(self) -> str:
        return self.log.read_text()

    def wait_logged(self, text: str, count: int = 1, seconds: float = 20) -> None:
        def is_logged() -> bool:
            assert self.popen.poll() is None, self.errors
            return self.errors.count(text) >= count

        wait_until(is_logged, seconds)


@contextlib.contextmanager
def running(
    process: str, config: ClusterConfig, folder: Path, *arguments: str, faults: Sequence[str] = ()
) -> Iterator[Running]:
    path, log = folder / "config.yaml", folder / "stderr"
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "tests.faults.failing_process", process, *faults, "--"]
    command += ["--config", str(path), *arguments]
    with log.open("wb") as errors, preloaded.Popen(command, stdout=errors) as popen:
        try:
            yield Running(popen, path, log)
        finally:
            popen.terminate()
            popen.wait(60)


def change(process: Running, **values: object) -> None:
    """Replaces values in the process's config file."""
    document = yaml.safe_load(process.config.read_text())
    process.config.write_text(yaml.safe_dump(document | values))


def wait_ready(config: ClusterConfig) -> None:
    with grpc.insecure_channel(config.shard_address(0)) as channel:
        stub = ShardServiceStub(channel)
        status = pb.ShardStatusRequest()
        wait_until(lambda: bool(stub.ShardStatus(status, wait_for_ready=True, timeout=30).ready), 30)


def test_reconciler_and_scrubber_of_a_shard_restart_after_an_os_error(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    faults = [f"{RECONCILER}@1=OSError", f"{SCRUBBER}@1=OSError"]
    with running("shard", config, tmp_path, *SHARD, faults=faults) as shard:
        wait_ready(config)
        shard.wait_logged("ran Scrubber.run")
        assert "background task 'reconciler' failed and restarts in" in shard.errors
        assert "background task 'scrubber' failed and restarts in" in shard.errors
        assert "OSError: [Errno 28] No space left on device" in shard.errors


def test_shard_applies_a_config_once_its_full_disk_has_room_again(small_disk: Path, tmp_path: Path) -> None:  # noqa: F811
    config = ephemeral_config(small_disk, 1)
    with running("shard", config, tmp_path, *SHARD) as shard:
        wait_ready(config)
        ballast = small_disk / "ballast"
        _fill(ballast)
        change(shard, partitions=2)
        shard.wait_logged("background task 'config follower' failed and restarts in", count=2)
        assert "2 partitions from now on" not in shard.errors
        ballast.unlink()
        shard.wait_logged("2 partitions from now on")


def test_coordinator_tasks_restart_after_an_os_error(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    faults = [f"{FOLLOWER}@1=OSError", f"{CLUSTER_POLL}@1=OSError", f"{HEALTH_WATCH}@1=OSError"]
    with running("coordinator", config, tmp_path, faults=faults) as coordinator:
        for name in ("config follower", "cluster poll", "health watch of shard r0-0"):
            coordinator.wait_logged(f"background task '{name}' failed and restarts in")
        for method in ("ConfigFollower.run", "Cluster._poll", "Replica.watch"):
            coordinator.wait_logged(f"ran {method}")


def test_coordinator_tries_a_failed_reload_again(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 1)
    faults = [FOLLOWER, "coordinator.server:SearchServicer.reload@1=OSError"]
    with running("coordinator", config, tmp_path, faults=faults) as coordinator:
        coordinator.wait_logged("ran ConfigFollower.run")
        change(coordinator, replicas=2)
        coordinator.wait_logged("ran SearchServicer.reload")
        assert "background task 'config follower' failed and restarts in" in coordinator.errors


@pytest.mark.parametrize(
    ("process", "fault", "task"),
    [
        ("shard", f"{RECONCILER}@1=TypeError", "reconciler"),
        ("shard", f"{SCRUBBER}@1=TypeError", "scrubber"),
        ("shard", f"{FOLLOWER}@1=TypeError", "config follower"),
        ("coordinator", f"{FOLLOWER}@1=TypeError", "config follower"),
        ("coordinator", f"{CLUSTER_POLL}@1=TypeError", "cluster poll"),
        ("coordinator", f"{HEALTH_WATCH}@1=TypeError", "health watch of shard r0-0"),
    ],
)
def test_process_exits_with_one_line_after_a_bug_in_a_task(
    process: str, fault: str, task: str, tmp_path: Path
) -> None:
    config = ephemeral_config(tmp_path, 1)
    arguments = SHARD if process == "shard" else ()
    with running(process, config, tmp_path, *arguments, faults=[fault]) as failing:
        assert failing.popen.wait(60) == EXIT_BACKGROUND_FAILED
    line = f"error: background task '{task}' failed: TypeError: injected; the process exits to be restarted"
    assert failing.errors.splitlines()[-1] == line
    assert failing.errors.count("Traceback") == 1


def test_replica_watch_of_the_encoder_restarts_and_exits_on_a_bug(
    ray: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ray.items():
        monkeypatch.setenv(name, value)
    config = ephemeral_config(tmp_path, 1, EncoderConfig(bits=64))
    faults = [f"{REPLICA_WATCH}@1=OSError,2=TypeError"]
    with running("encoder", config, tmp_path, faults=faults) as encoder:
        assert encoder.popen.wait(180) == EXIT_BACKGROUND_FAILED
    assert "background task 'replica watch' failed and restarts in" in encoder.errors
    line = "error: background task 'replica watch' failed: TypeError: injected; the process exits to be restarted"
    assert line in encoder.errors


def _fill(ballast: Path) -> None:
    """Fills the file's disk."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
