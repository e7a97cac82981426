"""Deadlines, cancellation and partial results while a shard hangs."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from coordinator.encoder_link import EncoderLink
from lookalike import AsyncClient, Record
from lookalike.model.errors import DeadlineExceeded, PartitionUnavailable
from lookalike.server.config import SecurityConfig
from lookalike.server.peer_channels import PeerChannels
from lookalike.transport.rpc import error_of
from lookalike.v1 import search_pb2 as pb
from lookalike.v1 import shard_pb2, shard_pb2_grpc
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.conftest import Cluster, running_cluster, wait_until

ROWS = 60
SILENT = "partition 1.* (did not answer in time|has not answered)"


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("deadlines"), partitions=2) as cluster:
        with cluster.client() as client:
            client.create_collection("c", bits=64)
            client.upsert([Record(f"k{i}", code=bytes([i] * 8)) for i in range(ROWS)], collection="c")
            client.search(code=bytes(8), collection="c")
        yield cluster


@pytest.fixture
def stopped(own_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with partition 1 frozen."""
    own_cluster.kill("shard-r0-1", signal.SIGSTOP)
    yield own_cluster
    own_cluster.kill("shard-r0-1", signal.SIGCONT)


def test_a_frozen_partition_is_an_error_that_names_it(stopped: Cluster) -> None:
    started = time.monotonic()
    with (
        stopped.client(timeout=2.0) as client,
        # The second if the coordinator's own questions have found it down before.
        pytest.raises((DeadlineExceeded, PartitionUnavailable), match=SILENT),
    ):
        client.search(code=bytes(8), collection="c")
    assert time.monotonic() - started < 10


async def test_a_frozen_encoder_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        link = EncoderLink(address, PeerChannels(SecurityConfig()))
        with pytest.raises(DeadlineExceeded, match=f"the encoder at {address} did not answer in time"):
            await link.describe(asyncio.get_running_loop().time() + 0.2)
        await link.close()


def test_a_partial_result_arrives_before_the_deadline(stopped: Cluster) -> None:
    with stopped.client(timeout=2.0) as client:
        result = client.search(code=bytes(8), k=ROWS, collection="c", allow_partial=True)
    assert not result.exact
    assert not result.coverage.complete
    assert list(result.coverage.missing) == [1]
    assert re.match(SILENT, result.coverage.missing[1])
    assert 0 < len(result.hits) == result.coverage.rows_searched < result.coverage.rows_known == ROWS


def test_a_partition_known_to_be_down_is_not_waited_for(stopped: Cluster) -> None:
    with stopped.client(timeout=3.0) as client:
        client.search(code=bytes(8), collection="c", allow_partial=True)
        for _ in range(3):
            began = time.monotonic()
            result = client.search(code=bytes(8), k=ROWS, collection="c", allow_partial=True)
            assert time.monotonic() - began < 1.5
            assert list(result.coverage.missing) == [1]
            assert "has not answered for" in result.coverage.missing[1]
        assert client.count(collection="c", allow_partial=True).coverage.missing.keys() == {1}
        with stopped.client(timeout=0.9) as hasty, pytest.raises(PartitionUnavailable, match="partition 1"):
            hasty.search(code=bytes(8), collection="c")
        stopped.kill("shard-r0-1", signal.SIGCONT)
        began = time.monotonic()
        wait_until(lambda: client.search(code=bytes(8), collection="c", allow_partial=True).coverage.complete, 2)
        assert time.monotonic() - began < 2


def test_impatient_clients_do_not_make_a_partition_down(own_cluster: Cluster) -> None:
    request = pb.SearchRequest(collection="c", query=pb.Query(code=bytes(8)), options=pb.SearchOptions(k=1))
    with grpc.insecure_channel(own_cluster.address) as channel, own_cluster.client() as client:
        for _ in range(50):
            calls = [SearchServiceStub(channel).Search.future(request, timeout=0.002) for _ in range(10)]
            for call in calls:
                call.cancel()
            assert client.search(code=bytes(8), k=ROWS, collection="c").coverage.complete


def test_a_list_of_collections_that_comes_too_late_is_a_passed_deadline(own_cluster: Cluster) -> None:
    shards = ("shard-r0-0", "shard-r0-1")
    for name in shards:
        own_cluster.kill(name, signal.SIGSTOP)
    try:
        with grpc.insecure_channel(own_cluster.address) as channel, pytest.raises(grpc.RpcError) as failure:
            SearchServiceStub(channel).ListCollections(pb.ListCollectionsRequest(), timeout=1.0)
    finally:
        for name in shards:
            own_cluster.kill(name, signal.SIGCONT)
    error = error_of(failure.value)
    assert isinstance(error, DeadlineExceeded)
    assert error.request_id is not None
    assert error.message == "no partition answered in time; allow more time"


async def test_a_search_waiting_for_a_frozen_partition_blocks_no_other(stopped: Cluster) -> None:
    async with (
        AsyncClient(stopped.address, timeout=30.0) as patient,
        AsyncClient(stopped.address, timeout=4.0) as hasty,
    ):
        fingerprint = _fingerprint(stopped)
        waiting = [
            asyncio.create_task(patient.search(code=bytes(8), fingerprint=fingerprint, collection="c"))
            for _ in range(20)
        ]
        await asyncio.sleep(0.1)
        results = await asyncio.gather(
            *(
                hasty.search(code=bytes(8), k=ROWS, fingerprint=fingerprint, collection="c", allow_partial=True)
                for _ in range(50)
            )
        )
        assert all(list(result.coverage.missing) == [1] for result in results)
        assert all(0 < len(result.hits) < ROWS for result in results)
        assert not any(task.done() for task in waiting)
        stopped.kill("shard-r0-1", signal.SIGCONT)
        assert all(result.exact for result in await asyncio.gather(*waiting))


def test_a_dead_partition_is_an_error_unless_partial_results_are_allowed(own_cluster: Cluster) -> None:
    old = own_cluster.kill("shard-r0-1")
    with own_cluster.client(timeout=3.0) as client:
        partial = client.search(code=bytes(8), collection="c", allow_partial=True)
        if not partial.coverage.complete:
            assert "partition 1" in partial.coverage.missing[1]
    own_cluster.wait_restarted("shard-r0-1", old)
    with own_cluster.client() as client:
        assert client.search(code=bytes(8), k=ROWS, collection="c").coverage.rows_searched == ROWS


def test_no_reachable_partition_is_an_error_even_with_partial_results(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=1) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        fingerprint = client.get_collection("c").code_space.fingerprint
        cluster.kill("shard-r0-0", signal.SIGSTOP)
        try:
            with cluster.client(timeout=1.0) as hasty, pytest.raises((DeadlineExceeded, PartitionUnavailable)):
                hasty.search(code=bytes(8), fingerprint=fingerprint, collection="c", allow_partial=True)
        finally:
            cluster.kill("shard-r0-0", signal.SIGCONT)


async def test_cancelling_a_search_reaches_the_shard(own_cluster: Cluster) -> None:
    """A cancelled search frees its place: with the shard frozen, a thousand of them leave no queue behind."""
    own_cluster.kill("shard-r0-1", signal.SIGSTOP)
    try:
        async with AsyncClient(own_cluster.address) as client:
            fingerprint = _fingerprint(own_cluster)
            tasks = [
                asyncio.create_task(
                    client.search(code=bytes(8), fingerprint=fingerprint, collection="c", allow_partial=False)
                )
                for _ in range(1_000)
            ]
            await asyncio.sleep(0.5)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
    finally:
        own_cluster.kill("shard-r0-1", signal.SIGCONT)
    with own_cluster.client() as client:
        started = time.monotonic()
        assert client.search(code=bytes(8), k=ROWS, collection="c").exact
        assert time.monotonic() - started < 10


def _fingerprint(cluster: Cluster) -> str:
    with grpc.insecure_channel(cluster.config.shard_address(0)) as channel:
        answer = shard_pb2_grpc.ShardServiceStub(channel).ShardStatus(shard_pb2.ShardStatusRequest(), timeout=5)
    return answer.collections[0].code_space.fingerprint
