"""Invalid input raises one clear error of the right class, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from lookalike import Client, CodeSpace, Record
from lookalike.cluster.scan import MAX_SCAN_K
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest, LookalikeError, NotFound
from lookalike.transport.rpc import MAX_MESSAGE_BYTES, error_of
from lookalike.v1 import codespace_pb2, filter_pb2, record_pb2, shard_pb2, shard_pb2_grpc
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.conftest import Cluster

GOOD = bytes(8)
LEAF = filter_pb2.Filter(exists=filter_pb2.Exists(field="a"))
WIDE = filter_pb2.Filter(**{"or": filter_pb2.Filters(filters=[LEAF] * 257)})
MANY = filter_pb2.Filter(**{"in": filter_pb2.In(field="a", texts=["b"] * 100_001)})
LONG = codespace_pb2.CodeSpace(bits=64, backbone="x" * 257)
DEEP = json.loads('{"a":' * 65 + "1" + "}" * 65)


@pytest.fixture
def filled(client: Client, collection: str) -> Iterator[str]:
    """A collection of one record, which must be the only one afterwards."""
    client.upsert([Record("good", code=GOOD, attributes={"label": "cat"})], collection=collection)
    yield collection
    assert client.get_collection(collection).rows == 1
    assert client.search(code=GOOD, collection=collection).hits[0].key == "good"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, InvalidRequest, "k: is 0"),
        ({"k": 10_001}, InvalidRequest, "k: is 10001; use a whole number from 1 to 10,000"),
        ({"k": 2.5}, InvalidRequest, "k: is 2.5"),
        ({"code": b"123"}, InvalidRequest, "the query has 3 bytes, the collection's codes have 8"),
        ({"code": "text"}, InvalidRequest, "code: is str"),
        ({"code": GOOD, "fingerprint": "f" * 64}, CodeSpaceMismatch, "encode again"),
        ({"code": GOOD, "key": "good"}, InvalidRequest, "exactly one of image, code and key"),
        ({"code": None}, InvalidRequest, "exactly one of image, code and key"),
        ({"code": None, "key": "nobody"}, NotFound, "'nobody' is not in collection"),
        ({"code": None, "key": ""}, InvalidRequest, "key: is empty"),
        ({"code": None, "image": b"pixels"}, InvalidRequest, "no encoder"),
        ({"code": None, "image": "/no/such.jpg"}, InvalidRequest, "'/no/such.jpg' cannot be read"),
        ({"max_distance": -1}, InvalidRequest, "max_distance: is -1"),
        ({"rerank": "magic"}, InvalidRequest, "rerank: unknown value 'magic'; use none"),
        ({"consistency": "all"}, InvalidRequest, "consistency: unknown value 'all'; use one or quorum"),
        ({"filter": {}}, InvalidRequest, "is not a filter"),
        ({"filter": {"label": {"$regex": "c.*"}}}, InvalidRequest, r"operator '\$regex' is unknown"),
        ({"filter": {"label": {"$gt": True}}}, InvalidRequest, "takes a number, a text or a time, not bool"),
        ({"filter": {"label": {"$gt": None}}}, InvalidRequest, "takes a number, a text or a time, not null"),
        ({"filter": {"label": {"$gt": "a", "$lt": 1}}}, InvalidRequest, "a number and a text as bounds"),
        ({"filter": {"label": {"$prefix": 1}}}, InvalidRequest, "prefix takes text, not int"),
        ({"filter": {"label": {"$date": "May"}}}, InvalidRequest, "is not a date"),
        ({"filter": {"label": object()}}, InvalidRequest, "compares with a object"),
        ({"filter": {"$and": []}}, InvalidRequest, "at least one"),
        ({"filter": {'la"bel': 1}}, InvalidRequest, "not a path"),
        ({"filter": {"la\tbel": 1}}, InvalidRequest, "not a path"),
        ({"filter": {"n": {"$gt": 10**400}}}, InvalidRequest, "does not fit in 64 bits"),
        ({"filter": {"n": {"$in": ["x" * 20_000_000]}}}, InvalidRequest, "20,000,000 bytes, over 16,777,216"),
    ],
)
def test_an_invalid_search_is_rejected(
    client: Client, filled: str, options: dict[str, Any], error: type[LookalikeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.search(collection=filled, **{"code": GOOD, **options})


@pytest.mark.parametrize(
    ("record", "error", "words"),
    [
        (Record("", code=GOOD), InvalidRequest, "key: is empty"),
        (Record("é" * 257, code=GOOD), InvalidRequest, "has 514 bytes; use 1..512"),
        (Record("\ud800", code=GOOD), InvalidRequest, "cannot be written as UTF-8"),
        (Record(b"bytes", code=GOOD), InvalidRequest, "key: is bytes"),
        (Record("a"), InvalidRequest, "needs an image or a code"),
        (Record("a", code=GOOD, image=b"x"), InvalidRequest, "exactly one"),
        (Record("a", code=b"1234567"), InvalidRequest, "record 'a': code: the record has 7 bytes"),
        (Record("a", code=GOOD, attributes=["no", "object"]), InvalidRequest, "are list, not a JSON object"),
        (Record("a", code=GOOD, attributes={"n": float("nan")}), InvalidRequest, "are not JSON"),
        (Record("a", code=GOOD, attributes={"n": object()}), InvalidRequest, "are not JSON"),
        (Record("a", code=GOOD, attributes={"n": "x" * 70_000}), InvalidRequest, "at most 65,536"),
        (Record("a", code=GOOD, attributes={"n": "a\0b"}), InvalidRequest, "NUL character"),
        (Record("a", code=GOOD, attributes=DEEP), InvalidRequest, "nested over 64 deep"),
        (Record("a", code=GOOD, fingerprint="0" * 64), CodeSpaceMismatch, "encode again"),
    ],
)
def test_an_invalid_record_rejects_its_whole_request(
    client: Client, filled: str, record: Record, error: type[LookalikeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.upsert([Record("fine", code=GOOD, fingerprint=record.fingerprint), record], collection=filled)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.get("abc", collection="c"), "keys: is one str; give a list"),
        (lambda c: c.delete("abc", collection="c"), "keys: is one str; give a list"),
        (lambda c: c.delete(b"abc", collection="c"), "keys: is one bytes"),
        (lambda c: c.search_batch(codes=GOOD, collection="c"), "codes: is one bytes"),
        (lambda c: c.upsert(Record("a", code=GOOD), collection="c"), "records: is one Record"),
        (lambda c: c.upsert([{"key": "a"}], collection="c"), "record: is dict"),
        (lambda c: c.get(["a"], collection=5), "collection: is int"),
        (lambda c: c.get(["a"], collection="\udcff"), "is not a name"),
        (lambda c: c.create_collection("c", bits="64"), "bits: is str"),
        (lambda c: Client("127.0.0.1:1", timeout=None), "timeout: is None"),
        (lambda c: Client("127.0.0.1:1", timeout=float("inf")), "timeout: is inf"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(client: Client, call: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        call(client)


def test_numpy_numbers_are_accepted(client: Client, filled: str) -> None:
    assert len(client.search(code=GOOD, k=np.int64(3), collection=filled).hits) == 1


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "x" * 129, "é"])
def test_an_invalid_name_is_rejected(client: Client, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a name"):
        client.create_collection(name, bits=64)


@pytest.mark.parametrize("bits", [0, 8, 20, 8_200])
def test_an_invalid_width_is_rejected(client: Client, bits: int) -> None:
    with pytest.raises(InvalidRequest, match="multiple of 8 from 16 to 8192"):
        client.create_collection("width", bits=bits)


def test_an_unknown_collection_is_not_found(client: Client) -> None:
    for call in (
        lambda: client.search(code=GOOD, collection="nowhere", fingerprint="0" * 64),
        lambda: client.search(key="a", collection="nowhere"),
        lambda: client.get(["a"], collection="nowhere"),
        lambda: client.delete(["a"], collection="nowhere"),
        lambda: client.upsert([Record("a", code=GOOD)], collection="nowhere"),
        lambda: client.drop_collection("nowhere"),
    ):
        with pytest.raises(NotFound, match="'nowhere' does not exist"):
            call()


def test_a_collection_in_the_encoder_code_space_needs_an_encoder(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="this cluster has none"):
        client.create_collection("encoded")


def test_a_message_over_the_limit_is_rejected(cluster: Cluster, client: Client, filled: str) -> None:
    with pytest.raises(InvalidRequest, match="over the limit of 64 MiB"):
        client.search(image=bytes(MAX_MESSAGE_BYTES + 1), collection=filled)
    with grpc.insecure_channel(cluster.address, [("grpc.max_send_message_length", -1)]) as channel:
        request = pb.SearchRequest(collection=filled, query=pb.Query(image=bytes(MAX_MESSAGE_BYTES + 1)))
        with pytest.raises(grpc.RpcError) as failure:
            SearchServiceStub(channel).Search(request)
    error = error_of(failure.value)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error, InvalidRequest)
    assert error.request_id is not None
    assert "over the limit of 64 MiB" in error.message


class Raw:
    """A client without checks, as one in another language may be."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = SearchServiceStub(self.channel)

    def error(self, method: str, request: Any) -> LookalikeError:
        with pytest.raises(grpc.RpcError) as failure:
            getattr(self.stub, method)(request)
        return error_of(failure.value)


@pytest.fixture
def raw(cluster: Cluster) -> Iterator[Raw]:
    client = Raw(cluster.address)
    yield client
    client.channel.close()


def test_the_server_repeats_the_checks_of_the_sdk(client: Client, raw: Raw, filled: str) -> None:
    fingerprint = client.get_collection(filled).code_space.fingerprint
    query = pb.Query(code=GOOD)

    def search(**fields: Any) -> pb.SearchRequest:
        given = {"collection": filled, "query": query, "fingerprint": fingerprint, **fields}
        return pb.SearchRequest(**{"options": pb.SearchOptions(k=1), **given})

    def upsert(**record: Any) -> pb.UpsertRequest:
        return pb.UpsertRequest(collection=filled, fingerprint=fingerprint, records=[record_pb2.Record(**record)])

    cases: list[tuple[str, Any, type[LookalikeError], str]] = [
        ("Search", search(options=pb.SearchOptions()), InvalidRequest, "k: is 0"),
        ("Search", search(options=pb.SearchOptions(k=10_001)), InvalidRequest, "k: is 10001"),
        ("Search", search(options=pb.SearchOptions(k=1, rerank=77)), InvalidRequest, "rerank: unknown value 77"),
        ("Search", search(query=pb.Query()), InvalidRequest, "query: is empty"),
        ("Search", search(query=pb.Query(image=b"")), InvalidRequest, "image: is empty"),
        ("Search", search(fingerprint="f" * 64), CodeSpaceMismatch, "encode again"),
        ("Search", search(collection=""), InvalidRequest, "is not a name"),
        ("SearchBatch", pb.SearchBatchRequest(collection=filled), InvalidRequest, "queries: 0 in one request"),
        ("Get", pb.GetRequest(collection=filled), InvalidRequest, "keys: 0 in one request"),
        ("Get", pb.GetRequest(collection=filled, keys=[""]), InvalidRequest, "key: is empty"),
        ("Delete", pb.DeleteRequest(collection=filled, keys=["x" * 513]), InvalidRequest, "has 513 bytes"),
        ("Upsert", pb.UpsertRequest(collection=filled), InvalidRequest, "records: 0 in one request"),
        ("Upsert", upsert(key="a", code=b"1"), InvalidRequest, "has 1 bytes"),
        ("Upsert", upsert(key="a"), InvalidRequest, "needs an image or a code"),
        ("Upsert", upsert(key="a", code=GOOD, attributes="[1]"), InvalidRequest, "a JSON list"),
        ("Upsert", upsert(key="a", code=GOOD, attributes="{bad"), InvalidRequest, "not valid JSON"),
        ("Upsert", upsert(key="a", code=GOOD, attributes='{"n": NaN}'), InvalidRequest, "NaN or Infinity"),
        ("Upsert", upsert(key="a", code=GOOD, attributes="[" * 5_000), InvalidRequest, "nested too deep"),
        ("Upsert", upsert(key="a", code=GOOD, attributes='{"a": "\\ud800"}'), InvalidRequest, "not valid Unicode"),
        (
            "Upsert",
            upsert(key="a", code=GOOD, attributes='{"a": ' + "9" * 5_000 + "}"),
            InvalidRequest,
            "too long",
        ),
        (
            "Upsert",
            pb.UpsertRequest(collection=filled, records=[record_pb2.Record()] * 10_001),
            InvalidRequest,
            "10,001 in one",
        ),
        (
            "Get",
            pb.GetRequest(collection=filled, keys=["a"], consistency=77),
            InvalidRequest,
            "unknown value 77",
        ),
        ("Search", search(options=pb.SearchOptions(k=1, filter=WIDE)), InvalidRequest, "over 256 conditions"),
        ("Search", search(options=pb.SearchOptions(k=1, filter=MANY)), InvalidRequest, "not 100,001"),
        ("CreateCollection", pb.CreateCollectionRequest(name="x", code_space=LONG), InvalidRequest, "backbone is"),
    ]
    for method, request, kind, words in cases:
        error = raw.error(method, request)
        assert (type(error), words in error.message) == (kind, True), (method, error)
        assert error.request_id


def test_a_key_that_is_not_utf8_is_rejected(raw: Raw, filled: str) -> None:
    request = pb.GetRequest(collection=filled, keys=["abc"]).SerializeToString().replace(b"abc", b"a\xff\xfe")
    call = raw.channel.unary_unary("/lookalike.v1.SearchService/Get")
    with pytest.raises(grpc.RpcError) as failure:
        call(request)
    error = error_of(failure.value)
    assert isinstance(error, InvalidRequest)
    assert "not a valid message" in error.message


def test_the_shard_checks_the_fingerprint_again(cluster: Cluster, client: Client, filled: str) -> None:
    stranger = CodeSpace(64, hash_digest="another seed").fingerprint
    with grpc.insecure_channel(cluster.config.shard_address(0)) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        group = shard_pb2.ScanGroup(collection=filled, fingerprint=stranger, codes=GOOD, k=1)
        answer = stub.Scan(shard_pb2.ScanRequest(groups=[group])).groups[0]
        assert answer.error == "CodeSpaceMismatch"
        with pytest.raises(grpc.RpcError) as failure:
            stub.Write(shard_pb2.WriteRequest(collection=filled, fingerprint=stranger))
        assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_shard_rejects_harmful_requests(cluster: Cluster, client: Client, filled: str) -> None:
    """Its clients are coordinators, but a bug in one must not cause permanent damage."""
    fingerprint = client.get_collection(filled).code_space.fingerprint
    with grpc.insecure_channel(cluster.config.shard_address(0)) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)

        def write(**fields: Any) -> grpc.StatusCode:
            record = shard_pb2.ShardRecord(
                **{"key": "a", "code": GOOD, "attributes": "{}", "version": 1, **fields}
            )
            request = shard_pb2.WriteRequest(collection=filled, fingerprint=fingerprint, records=[record])
            with pytest.raises(grpc.RpcError) as failure:
                stub.Write(request)
            return failure.value.code()

        for fields in ({"version": 2**63 - 1}, {"version": 2**64 - 1}, {"attributes": "{bad"}, {"attributes": "5"},
                       {"code": b"short"}, {"key": ""}):  # fmt: skip
            assert write(**fields) is grpc.StatusCode.INVALID_ARGUMENT, fields
        for k in (0, MAX_SCAN_K + 1, 2**32 - 1):
            group = shard_pb2.ScanGroup(collection=filled, fingerprint=fingerprint, codes=GOOD, k=k)
            assert stub.Scan(shard_pb2.ScanRequest(groups=[group])).groups[0].error == "InvalidRequest"
