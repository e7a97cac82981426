"""Overload: excess requests are rejected immediately with a retry delay, and clients that retry succeed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from lookalike import AsyncClient, Record
from lookalike.transport.rpc import CHANNEL_OPTIONS, RETRY_AFTER_KEY
from lookalike.v1 import record_pb2, search_pb2_grpc
from lookalike.v1 import search_pb2 as pb
from tests.conftest import running_cluster

LARGE = 40 * 1024 * 1024


async def test_excess_large_requests_are_rejected_with_retry_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE__MAX_REQUEST_MB", "128")
    with running_cluster(tmp_path, partitions=1) as cluster:
        with cluster.client() as client:
            fingerprint = client.create_collection("c", bits=64).code_space.fingerprint
        request = pb.UpsertRequest(
            collection="c",
            fingerprint=fingerprint,
            records=[
                record_pb2.Record(key=f"k{i}", code=bytes(8), attributes='{"a": "' + "x" * 60_000 + '"}')
                for i in range(LARGE // 60_000)
            ],
        )
        async with grpc.aio.insecure_channel(cluster.address, options=CHANNEL_OPTIONS) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            calls = [stub.Upsert(request, timeout=60) for _ in range(10)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert 0 < len(refusals) < len(calls)
        for refusal in refusals:
            assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(str(dict(refusal.trailing_metadata() or ())[RETRY_AFTER_KEY])) > 0
        # A client that waits as requested succeeds.
        async with AsyncClient(cluster.address, timeout=60) as patient:
            records = [Record(f"k{i}", code=bytes(8), attributes={"a": "x" * 60_000}) for i in range(100)]
            done = await asyncio.gather(*(patient.upsert(records, collection="c") for _ in range(8)))
        assert done == [len(records)] * 8


def test_an_ingest_survives_coordinator_restarts(tmp_path: Path) -> None:
    rows = 30_000
    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        kills = {rows // 4: signal.SIGKILL, rows // 2: signal.SIGTERM}
        outcomes = []
        records = (Record(f"k{i}", code=i.to_bytes(8, "big")) for i in range(rows))
        for outcome in client.ingest(records, collection="c"):
            outcomes.append(outcome)
            if (number := kills.pop(len(outcomes), None)) is not None:
                pid = cluster.kill("coordinator", number)
                _wait_gone(pid)
        assert not kills
        assert [outcome.key for outcome in outcomes] == [f"k{i}" for i in range(rows)]
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert client.get_collection("c").rows == rows


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} does not end")


async def test_an_async_ingest_survives_a_coordinator_restart(tmp_path: Path) -> None:
    rows = 10_000
    with running_cluster(tmp_path, partitions=1) as cluster:
        async with AsyncClient(cluster.address) as client:
            await client.create_collection("c", bits=64)
            count = 0
            records = (Record(f"k{i}", code=i.to_bytes(8, "big")) for i in range(rows))
            async for outcome in client.ingest(records, collection="c"):
                assert outcome.error is None
                count += 1
                if count == rows // 3:
                    cluster.kill("coordinator")
            assert count == rows
            assert (await client.get_collection("c")).rows == rows
