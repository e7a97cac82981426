"""Starts the processes of the manifests on miniature machines, stores and finds records through every coordinator,
and scales: `python -m tests.deploy.rehearsal compose|kubernetes WORK`, in namespaces for it.

This checkout stands in for the image, /etc/hosts for DNS, and a folder for each claim."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from lookalike import Client, Record
from lookalike.v1 import shard_pb2
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from tests.deploy import render
from tests.deploy.containers import Container, from_compose, from_kubernetes
from tests.deploy.hosts import Hosts, write_whole

RECORDS = 300
BYTES = 8
CODES = np.random.default_rng(1).integers(0, 256, (RECORDS, BYTES), np.uint8)


@dataclasses.dataclass
class Rehearsal:
    """One deployment folder, and its running containers. compiled: a folder from `compile_once`."""

    hosts: Hosts
    folder: Path
    read: Callable[[], list[Container]]
    compiled: Path

    def follow(self) -> list[Container]:
        """Starts the containers that the manifests have added, and stops those that they no longer have."""
        wanted = {one.name: one for one in self.read()}
        running = set(self.hosts.names())
        self.hosts.stop(*sorted(running - set(wanted)))
        for name in sorted(set(wanted) - running):
            if wanted[name].component == "shard":
                volume = wanted[name].mounts["/var/lib/lookalike"]
                assert volume is not None
                shutil.copytree(self.compiled, volume / "numba", dirs_exist_ok=True)
            self.hosts.start(wanted[name])
        return list(wanted.values())


def change_config(folder: Path, before: str, after: str, *options: str) -> str:
    """Changes one line of lookalike.yaml and writes the shards' manifests again; returns what this printed."""
    path = folder / "lookalike.yaml"
    text = path.read_text()
    assert text.count(before + "\n") == 1
    write_whole(path, text.replace(before + "\n", after + "\n"))
    return render.manifests(folder, *options)


def small(folder: Path, replicas: int) -> None:
    """Reduces the config to two partitions, which are enough for these checks."""
    path = folder / "lookalike.yaml"
    text = path.read_text().replace("partitions: 4\n", "partitions: 2\n")
    path.write_text(text.replace("replicas: 2\n", f"replicas: {replicas}\n", 1))
    shards = folder / "shards.yaml"
    shards.write_text(shards.read_text().replace(": 4 x 2", ": 2 x 2", 1))
    render.manifests(folder)


def main() -> None:
    kind, work = sys.argv[1], Path(sys.argv[2])
    deploy = render.copied(work)
    subprocess.run([deploy / "compose" / "secrets.sh"], check=True)
    secrets, data = deploy / "compose" / "secrets", work / "data"
    if kind == "compose":
        folder = deploy / "compose" / "cluster"
        read = lambda: list(from_compose(render.compose(deploy / "compose"), data))  # noqa: E731
    else:
        folder = deploy / "kubernetes" / "overlays" / "production"
        mounted = work / "configmap"
        mounted.mkdir()

        def read() -> list[Container]:
            documents = render.kustomize(folder)
            (config,) = (one for one in documents if one["metadata"]["name"] == "lookalike" and "data" in one)
            for name, content in config["data"].items():
                write_whole(mounted / name, content)
            return list(from_kubernetes(documents, mounted, secrets, data))

    small(folder, replicas=1 if kind == "compose" else 2)
    show = Rehearsal(Hosts(work), folder, read, compile_once(work / "compiled"))
    try:
        coordinators = rehearse(show)
        if kind == "kubernetes":
            scale(show, coordinators)
    finally:
        show.hosts.stop(*show.hosts.names())


def compile_once(folder: Path) -> Path:
    """Fills Numba's cache for the shards, as if each had run before: compiling takes five seconds. Returns the
    cache's folder."""
    program = "from shard.kernel import CodeMatrix; CodeMatrix(64).warm_up()"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return folder


def rehearse(show: Rehearsal) -> list[str]:
    """Starts everything, stores records through one coordinator and finds them through both. Returns the
    coordinators' addresses."""
    containers = show.follow()
    show.hosts.wait_healthy(containers)
    coordinators = [one.name for one in containers if one.component == "coordinator"]
    assert len(coordinators) == 2
    first, second = (f"{show.hosts.address(name)}:7700" for name in coordinators)
    with Client(first) as client:
        client.create_collection("raw", bits=8 * BYTES)
        records = [Record(key=f"r{i}", code=code.tobytes()) for i, code in enumerate(CODES)]
        assert client.upsert(records, collection="raw") == RECORDS
    check(first)
    check(second)
    check_closed(next(show.hosts.address(one.name) for one in containers if one.component == "shard"))
    print(f"{len(containers)} containers serve, {RECORDS} records found through both coordinators", flush=True)
    return [first, second]


def scale(show: Rehearsal, coordinators: list[str]) -> None:
    """Adds a partition and removes one: every record is still found, and no shard that holds records is
    stopped."""
    first, second = coordinators
    before = len(show.hosts.names())
    change_config(show.folder, "partitions: 2", "partitions: 3")
    show.hosts.wait_healthy(show.follow())
    wait_balanced(first, 3)
    check(second)
    print("3 partitions")
    assert "stay until" in change_config(show.folder, "partitions: 3", "partitions: 2")
    assert len(show.follow()) == before + 2, "a partition was stopped that may hold records"
    wait_balanced(first, 2)
    assert "stay until" not in change_config(show.folder, "partitions: 2", "partitions: 2", f"--server={first}")
    assert len(show.follow()) == before
    check(first)
    check(second)
    print("2 partitions again")


def check(coordinator: str) -> None:
    """Asserts that every record is found by its own code, in complete answers."""
    with Client(coordinator) as client:
        answers = client.search_batch(codes=[code.tobytes() for code in CODES], k=1, collection="raw")
        lost = [i for i, answer in enumerate(answers) if not answer.hits or answer.hits[0].key != f"r{i}"]
        assert not lost, (coordinator, len(lost), answers[lost[0]])
        assert all(answer.coverage.complete for answer in answers)
        assert sum(one.rows for one in client.status().collections if one.name == "raw") == RECORDS


def check_closed(shard: str) -> None:
    """Asserts that a shard rejects a caller without the secret that the manifests mount."""
    with grpc.insecure_channel(f"{shard}:7710") as channel:
        call = ShardServiceStub(channel).ShardStatus.future(shard_pb2.ShardStatusRequest(), timeout=5)
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED, call.code()


def wait_balanced(coordinator: str, partitions: int) -> None:
    deadline = time.monotonic() + 60
    with Client(coordinator) as client:
        while True:
            status = client.status()
            done = status.rebalance.partitions == partitions and not status.rebalance.slots_to_move
            leaving = [part for part in status.partitions if part.partition >= partitions]
            if done and all(part.removable for part in leaving):
                return
            assert time.monotonic() < deadline, status
            time.sleep(0.1)


if __name__ == "__main__":
    os.environ.pop("LOOKALIKE_SERVER", None)
    main()
