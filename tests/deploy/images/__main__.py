"""Runs the cluster of deploy/compose from its images, under crun: `python -m tests.deploy.images WORK`, in
namespaces for it. deploy/images.sh mounts the images and calls it.

Prometheus and Grafana are left out, since their images are in a registry."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from lab.demo.photographs import bundled_photographs
from lookalike import Client, Record
from tests.deploy import render
from tests.deploy.images.bundle import Image
from tests.deploy.images.runtime import Containers
from tests.deploy.network import run
from tests.deploy.rehearsal import BYTES, CODES, RECORDS, change_config, check, check_closed, small, wait_balanced

LEFT_OUT = ("grafana", "prometheus")
PHOTOGRAPHS = 6
# Prints the first process's user, group, NoNewPrivs and Seccomp, and its sets of capabilities that are not empty;
# then the file systems that are not mounted read-only.
_INSIDE = """
import os, re
status = dict(re.findall(r"^(\\w+):\\s+(\\w+)", open("/proc/1/status").read(), re.M))
capabilities = [name for name in status if name.startswith("Cap") and int(status[name], 16)]
folders = ("/", "/opt/lookalike", "/etc/lookalike", "/run/secrets/lookalike", "/var/lib/lookalike", "/tmp")
writable = [one for one in folders if not os.statvfs(one).f_flag & os.ST_RDONLY]
print(*(status[name] for name in ("Uid", "Gid", "NoNewPrivs", "Seccomp")), *capabilities, *writable)
"""
# botocore's data is reduced to these services in the image of the coordinator.
_STORES = """
import botocore.session, s3fs
for service in ("s3", "sts", "sso", "sso-oidc", "signin"):
    botocore.session.get_session().create_client(service, region_name="eu-central-1")
"""
_MODULES = {
    "shard-r0-0": "shard.server",
    "coordinator-0": "coordinator.server, lookalike.cli",
    "encoder": "encoder.front, ray.serve, timm",
}
_ZOMBIES = """
import pathlib
states = [path.read_text().rpartition(")")[2].split()[0] for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(len(states), states.count("Z"))
"""


def main() -> None:
    work = Path(sys.argv[1])
    deploy = render.copied(work)
    run(deploy / "compose" / "secrets.sh")
    small(deploy / "compose" / "cluster", replicas=1)
    services = wanted_services(deploy / "compose")
    images = {name: Image.read(work, name) for name in {one["image"] for one in services.values()}}
    containers = Containers(work, images)
    try:
        show(deploy / "compose", containers)
    finally:
        containers.kill()


def wanted_services(compose: Path) -> Mapping[str, render.Document]:
    """The services whose images are built here."""
    services = render.compose(compose)["services"]
    return {name: one for name, one in services.items() if name not in LEFT_OUT}


def show(compose: Path, containers: Containers) -> None:
    """Starts the cluster, fills it, searches, adds a partition and restarts."""
    report = _Report()
    started = containers.up(wanted_services(compose))
    coordinators = [name for name in started if name.startswith("coordinator")]
    addresses = [f"{containers.address(name)}:7700" for name in coordinators]
    assert len(addresses) == 2
    report(f"{len(started)} containers are healthy")
    for name in started:
        check_confined(containers, name)
    check_closed(containers.address("shard-r0-0"))
    check_programs(containers)
    report("all run as user 10001 without capabilities, on a read-only root")
    photographs = fill(addresses[0])
    each(addresses, photographs)
    report(f"{RECORDS} codes and {len(photographs)} photographs are found through both coordinators")
    assert change_config(compose / "cluster", "partitions: 2", "partitions: 3") == ""
    added = containers.up(wanted_services(compose))
    wait_balanced(addresses[0], 3)
    each(addresses, photographs)
    report(f"the same with 3 partitions, after {', '.join(added)} was added")
    containers.stop(*containers.names())
    report("all have exited with 0 after SIGTERM")
    containers.up(wanted_services(compose))
    each(addresses, photographs)
    check_reaped(containers, "encoder")
    report("the same after the restart")


class _Report:
    """Prints what holds, with the seconds since the last line."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        print(f"{line} ({now - self._last:.0f} s)", flush=True)
        self._last = now


def check_confined(containers: Containers, name: str) -> None:
    """Asserts that a command in the container has only the rights that compose.yaml leaves it."""
    answer = containers.execute(name, "python", "-c", _INSIDE)
    assert answer.returncode == 0, (name, answer.stderr)
    data = ["/var/lib/lookalike"] if name.startswith("shard") else []
    assert answer.stdout.split() == ["10001", "10001", "1", "2", *data, "/tmp"], (name, answer.stdout)


def check_programs(containers: Containers) -> None:
    """Asserts that s3:// can be read, and that no module of the images is compiled when a process starts."""
    answer = containers.execute("coordinator-0", "python", "-c", _STORES)
    assert answer.returncode == 0, answer.stderr
    for name, modules in _MODULES.items():
        # Python prints "code object from" a source file and "matches" for bytecode.
        answer = containers.execute(name, "python", "-v", "-c", f"import {modules}")
        assert answer.returncode == 0, answer.stderr[-3000:]
        loaded = re.findall(r"^# .*\.pyc matches /opt/lookalike/", answer.stderr, re.MULTILINE)
        compiled = re.findall(r"^# code object from (/opt/lookalike/.*\.py)$", answer.stderr, re.MULTILINE)
        assert not compiled, f"{name}: {len(compiled)} modules are compiled, {len(loaded)} are not: {compiled[:5]}"
        assert len(loaded) > 100, (name, len(loaded))


def fill(coordinator: str) -> list[Path]:
    """Stores codes in one collection and photographs in another. Returns the photographs."""
    photographs = [one.path for one in bundled_photographs()[:PHOTOGRAPHS]]
    with Client(coordinator) as client:
        client.create_collection("raw", bits=8 * BYTES)
        records = [Record(key=f"r{i}", code=code.tobytes()) for i, code in enumerate(CODES)]
        assert client.upsert(records, collection="raw") == RECORDS
        client.create_collection("photographs")
        records = [Record(key=path.name, image=path.read_bytes()) for path in photographs]
        assert client.upsert(records, collection="photographs") == len(photographs)
    return photographs


def each(coordinators: list[str], photographs: list[Path]) -> None:
    """Asserts through each coordinator that all records are found."""
    for coordinator in coordinators:
        check(coordinator)
        with Client(coordinator) as client:
            for path in photographs:
                answer = client.search(image=path.read_bytes(), k=len(photographs), collection="photographs")
                assert answer.hits[0].key == path.name, (path, answer.hits)
                assert len(answer.hits) == len(photographs), answer
                assert answer.coverage.complete, answer.coverage


def check_reaped(containers: Containers, name: str) -> None:
    """Asserts that the container's first process, which inherits orphans, leaves no zombies."""
    answer = containers.execute(name, "python", "-c", _ZOMBIES)
    processes, zombies = answer.stdout.split()
    assert int(processes) > 1, answer
    assert zombies == "0", f"{name}: {zombies} of {processes} processes are zombies"


if __name__ == "__main__":
    main()
