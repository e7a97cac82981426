"""Codes without a fingerprint are accepted where only the width of the codes is known, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from lookalike import Client, CodeSpace
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest, LookalikeError
from lookalike.transport.rpc import error_of
from lookalike.v1 import record_pb2
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.conftest import Cluster, second_coordinator

CODE = bytes(8)
OTHER = CodeSpace(64, hash_digest="another seed").fingerprint
LABELLED = (
    CodeSpace(64, hash_digest="another seed"),
    CodeSpace(64, backbone="tf_efficientnet_lite0", hash_method="lsh"),
    CodeSpace.of_kind("phash", 64),
)


@pytest.fixture
def stub(cluster: Cluster) -> Iterator[SearchServiceStub]:
    with grpc.insecure_channel(cluster.address) as channel:
        yield SearchServiceStub(channel)


def upsert(collection: str, fingerprint: str = "") -> pb.UpsertRequest:
    record = record_pb2.Record(key="a", code=CODE)
    return pb.UpsertRequest(collection=collection, records=[record], fingerprint=fingerprint)


def calls(stub: SearchServiceStub, collection: str, fingerprint: str = "") -> list[Callable[[], Any]]:
    """Every call that takes codes, each sent when it is called."""
    query, options = pb.Query(code=CODE), pb.SearchOptions(k=1)
    common = {"collection": collection, "options": options, "fingerprint": fingerprint}
    write = upsert(collection, fingerprint)
    message = pb.IngestRequest(collection=collection, records=write.records, fingerprint=fingerprint)
    return [
        lambda: stub.Upsert(write, timeout=10),
        lambda: [raised(outcome) for answer in stub.Ingest(iter([message])) for outcome in answer.outcomes],
        lambda: stub.Search(pb.SearchRequest(query=query, **common), timeout=10),
        lambda: stub.SearchBatch(pb.SearchBatchRequest(queries=[query], **common), timeout=10),
    ]


def raised(outcome: record_pb2.Outcome) -> None:
    errors = {"InvalidRequest": InvalidRequest, "CodeSpaceMismatch": CodeSpaceMismatch}
    if outcome.error:
        raise errors[outcome.error](outcome.message)


def failure(call: Callable[[], Any]) -> LookalikeError:
    with pytest.raises((grpc.RpcError, LookalikeError)) as error:
        call()
    return error.value if isinstance(error.value, LookalikeError) else error_of(error.value)  # type: ignore[arg-type]


def test_a_collection_with_only_a_width_accepts_unlabelled_codes(
    client: Client, stub: SearchServiceStub, collection: str
) -> None:
    for call in calls(stub, collection):
        call()
    assert client.get(["a"], collection=collection)[0].code == CODE
    for call in calls(stub, collection, OTHER):
        assert isinstance(failure(call), CodeSpaceMismatch)


@pytest.mark.parametrize("space", LABELLED, ids=lambda space: f"{space.backbone}-{space.hash_method}")
def test_a_collection_in_a_named_space_refuses_unlabelled_codes(
    client: Client, stub: SearchServiceStub, space: CodeSpace
) -> None:
    name = f"labelled-{space.backbone}-{space.hash_method}"
    client.create_collection(name, code_space=space)
    for call in calls(stub, name):
        error = failure(call)
        assert isinstance(error, InvalidRequest)
        assert "without its code space's fingerprint" in error.message
    assert client.get_collection(name).rows == 0
    for call in calls(stub, name, space.fingerprint):
        call()
    client.drop_collection(name)


def test_a_coordinator_with_an_outdated_cache_decides_by_the_present_space(
    cluster: Cluster, client: Client
) -> None:
    with second_coordinator(cluster) as address, grpc.insecure_channel(address) as channel:
        late = SearchServiceStub(channel)
        client.create_collection("respaced", code_space=LABELLED[0])
        late.Upsert(upsert("respaced", LABELLED[0].fingerprint), timeout=10)
        client.drop_collection("respaced")
        client.create_collection("respaced", bits=64)
        assert late.Upsert(upsert("respaced"), timeout=10).upserted == 1
        client.drop_collection("respaced")
        client.create_collection("respaced", code_space=LABELLED[0])
        for call in calls(late, "respaced"):
            assert isinstance(failure(call), InvalidRequest)
        assert client.get_collection("respaced").rows == 0
    client.drop_collection("respaced")
