"""A shard with a full disk rejects writes, keeps acknowledged records, continues to serve, and recovers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from coordinator.clock import Clock
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Overloaded
from lookalike.server.config import dump_config
from lookalike.transport.rpc import error_of
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from lookalike.wire import space_to_wire
from tests.conftest import wait_until

SPACE = CodeSpace(64)
CLOCK = Clock()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of six megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_writes_and_loses_none(small_disk: Path, tmp_path: Path) -> None:
    config = ephemeral_config(small_disk, 1)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "shard", "--config", path, "--partition", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            with grpc.insecure_channel(config.shard_address(0)) as channel:
                _fill_and_free(ShardServiceStub(channel), small_disk)
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=30)
    assert b"Traceback" not in errors


def _fill_and_free(stub: ShardServiceStub, disk: Path) -> None:
    wait_until(lambda: _is_ready(stub), 60)
    stub.OpenCollection(pb.OpenCollectionRequest(name="c", code_space=space_to_wire(SPACE)), timeout=30)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    written, error = _write_until_refused(stub)
    assert isinstance(error, Overloaded)
    assert "disk full" in error.message
    assert error.retry_after_ms
    assert written > 0
    assert _stored(stub) == written * 100
    os.unlink(ballast)
    stub.Write(_batch(written), timeout=30)
    assert _stored(stub) == (written + 1) * 100


def _is_ready(stub: ShardServiceStub) -> bool:
    return bool(stub.ShardStatus(pb.ShardStatusRequest(), wait_for_ready=True, timeout=30).ready)


def _write_until_refused(stub: ShardServiceStub) -> tuple[int, Exception]:
    """How many batches were acknowledged, and the error of the next."""
    for number in range(10_000):
        try:
            stub.Write(_batch(number), timeout=30)
        except grpc.RpcError as failure:
            return number, error_of(failure)
    raise AssertionError("the disk never filled")


def _batch(number: int) -> pb.WriteRequest:
    # A coordinator's versions: the shard rejects writes that are older than the tombstones it keeps.
    version = CLOCK.next()
    records = [
        pb.ShardRecord(key=f"{number}-{i}", code=bytes(8), attributes="{}", version=version) for i in range(100)
    ]
    return pb.WriteRequest(collection="c", fingerprint=SPACE.fingerprint, records=records)


def _stored(stub: ShardServiceStub) -> int:
    """The number of rows that a scan finds, which must equal the status's count."""
    group = pb.ScanGroup(collection="c", fingerprint=SPACE.fingerprint, codes=bytes(8), k=1)
    rows = stub.Scan(pb.ScanRequest(groups=[group]), timeout=30).groups[0].rows
    assert rows == stub.ShardStatus(pb.ShardStatusRequest(), timeout=30).collections[0].rows
    return int(rows)
