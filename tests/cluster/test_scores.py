"""Scores beyond Hamming distance equal a plain computation, for any number of shards."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from encoder.hashing import LinearHash, from_bytes
from lab.fitting import fit
from lookalike import AsyncClient, Client, CodeSpace, Record, SearchResult
from lookalike.cli.collection import hash_
from lookalike.model.errors import InvalidRequest
from lookalike.model.features import cosines, pack, unpack
from lookalike.model.indexing import Indexing
from lookalike.model.records import record_id
from lookalike.v1 import codespace_pb2, shard_pb2, shard_pb2_grpc
from tests.conftest import Cluster, running_cluster, second_coordinator

WIDTH, BITS, N = 48, 64, 900
RNG = np.random.default_rng(7)
FEATURES = (RNG.standard_normal((12, WIDTH)).repeat(N // 12, axis=0) + RNG.standard_normal((N, WIDTH))).astype(
    np.float32
)
# Some are equal, so that ranks tie and ids decide.
FEATURES[::9] = FEATURES[3]
QUERIES = (FEATURES[RNG.integers(0, N, 20)] + RNG.standard_normal((20, WIDTH)) * 0.3).astype(np.float32)
KEYS = [f"image-{number}" for number in range(N)]
HASH = fit("itq", FEATURES, BITS)
SPACE = CodeSpace(BITS, "test:network", "", "pooled", "", HASH.method, HASH.digest)
CODES = HASH.codes(FEATURES)


def records() -> list[Record]:
    return [
        Record(key, code=code.tobytes(), features=vector, attributes={"half": number % 2})
        for number, (key, code, vector) in enumerate(zip(KEYS, CODES, FEATURES, strict=True))
    ]


def fill(client: Client, kind: str) -> str:
    name = f"scores-{kind}"
    client.create_collection(name, code_space=SPACE, features=kind, feature_width=WIDTH, hash_file=HASH.to_bytes())
    assert client.upsert(records(), collection=name) == N
    return name


@pytest.fixture(scope="module")
def names(cluster: Cluster) -> Iterator[list[str]]:
    with cluster.client() as client:
        names = [fill(client, kind) for kind in ("int8", "float16")]
        yield names
        for name in names:
            client.drop_collection(name)


def search(client: Client, name: str, query: np.ndarray, **options: object) -> SearchResult:
    return client.search(
        collection=name, code=HASH.codes(query[None])[0].tobytes(), projections=HASH.projections(query[None])[0],
        features=query, include_attributes=False, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def asymmetric(query: np.ndarray) -> np.ndarray:
    """1 - score of every record, computed as search.proto describes it."""
    projections = HASH.projections(query[None])[0]
    sizes = np.abs(projections.astype(np.float64))
    weights = np.rint(sizes * (65_535 / sizes.max())).astype(np.int64)
    differing = np.unpackbits(CODES ^ np.packbits(projections > 0), axis=1)
    return (differing * weights).sum(axis=1) / weights.sum()


def hamming(query: np.ndarray) -> np.ndarray:
    return np.bitwise_count(CODES ^ HASH.codes(query[None])[0]).sum(axis=1, dtype=np.int64)


def best(rows: list[int], ranks: np.ndarray, k: int) -> list[tuple[str, float]]:
    ordered = sorted((float(ranks[row]), record_id(KEYS[row]), KEYS[row]) for row in rows)
    return [(key, pytest.approx(1 - rank, abs=2e-6)) for rank, _, key in ordered[:k]]  # type: ignore[misc]


def candidates(query: np.ndarray, count: int, among: list[int] | None = None) -> list[int]:
    distances = hamming(query)
    rows = range(N) if among is None else among
    return sorted(rows, key=lambda row: (distances[row], record_id(KEYS[row])))[:count]


def pairs(result: SearchResult) -> list[tuple[str, float]]:
    return [(hit.key, hit.score) for hit in result.hits]


def test_an_asymmetric_score_compares_every_record(cluster: Cluster, names: list[str]) -> None:
    with cluster.client() as client:
        for query in QUERIES:
            result = search(client, names[0], query, k=25, score="asymmetric")
            assert pairs(result) == best(list(range(N)), asymmetric(query), 25)
            assert result.exact
            distances = dict(zip(KEYS, hamming(query).tolist(), strict=True))
            assert [hit.distance for hit in result.hits] == [distances[hit.key] for hit in result.hits]


@pytest.mark.parametrize("oversampling", [1, 4, 200])
def test_an_asymmetric_rerank_orders_the_nearest(cluster: Cluster, names: list[str], oversampling: int) -> None:
    with cluster.client() as client:
        for query in QUERIES:
            result = search(client, names[0], query, k=5, rerank="asymmetric", oversampling=oversampling)
            chosen = candidates(query, 5 * oversampling)
            assert pairs(result) == best(chosen, asymmetric(query), 5)
            assert result.exact == (5 * oversampling > N)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_rerank_by_features_orders_the_nearest_by_cosine(cluster: Cluster, names: list[str], kind: int) -> None:
    name = ("int8", "float16")[kind]
    kept = unpack(name, [pack(name, vector) for vector in FEATURES])
    with cluster.client() as client:
        for query in QUERIES:
            result = search(client, names[kind], query, k=5, rerank="features", oversampling=8)
            assert pairs(result) == best(candidates(query, 40), 1 - cosines(query, kept), 5)


def test_one_shard_and_three_return_the_same_scores(cluster: Cluster, names: list[str], tmp_path: Path) -> None:
    modes: list[dict[str, object]] = [
        {"score": "asymmetric"}, {"rerank": "asymmetric"}, {"rerank": "features", "oversampling": 3}
    ]  # fmt: skip
    with running_cluster(tmp_path, partitions=1) as single, single.client() as one, cluster.client() as three:
        name = fill(one, "int8")
        for query in QUERIES:
            for mode in modes:
                answers = [
                    [(hit.key, hit.distance, hit.score) for hit in search(client, at, query, k=7, **mode).hits]
                    for client, at in ((one, name), (three, names[0]))
                ]
                assert answers[0] == answers[1], mode
        # Features and hash survive when a shard is killed.
        pid = single.kill("shard-r0-0", signal.SIGKILL)
        single.wait_restarted("shard-r0-0", pid)
        again = search(one, name, QUERIES[0], k=7, rerank="features", oversampling=3)
        assert pairs(again) == pairs(search(three, names[0], QUERIES[0], k=7, rerank="features", oversampling=3))
        assert one.get_hash_file(name) == HASH.to_bytes()


def test_filters_and_bounds_hold_for_every_score(cluster: Cluster, names: list[str]) -> None:
    query = QUERIES[1]
    even = list(range(0, N, 2))
    near = [row for row in even if hamming(query)[row] <= 24]
    options: dict[str, object] = {"filter": {"half": 0}, "max_distance": 24}
    with cluster.client() as client:
        result = search(client, names[0], query, k=20, score="asymmetric", **options)
        assert pairs(result) == best(near, asymmetric(query), 20)
        result = search(client, names[0], query, k=5, rerank="asymmetric", oversampling=3, **options)
        assert pairs(result) == best(candidates(query, 15, near), asymmetric(query), 5)


def test_search_by_key_reranks_by_the_records_own_features(cluster: Cluster, names: list[str]) -> None:
    kept = unpack("int8", [pack("int8", vector) for vector in FEATURES])
    with cluster.client() as client:
        result = client.search(collection=names[0], key=KEYS[5], k=6, rerank="features", oversampling=5)
        distances = np.bitwise_count(CODES ^ CODES[5]).sum(axis=1, dtype=np.int64)
        others = sorted(
            (row for row in range(N) if row != 5), key=lambda row: (distances[row], record_id(KEYS[row]))
        )
        assert pairs(result) == best(others[:30], 1 - cosines(kept[5], kept), 6)
        with pytest.raises(InvalidRequest, match="projections: are missing"):
            client.search(collection=names[0], key=KEYS[5], rerank="asymmetric")


async def test_batched_and_concurrent_queries_keep_their_own_scores(cluster: Cluster, names: list[str]) -> None:
    codes = [code.tobytes() for code in HASH.codes(QUERIES)]
    projections = list(HASH.projections(QUERIES))
    with cluster.client() as client:
        batch = client.search_batch(
            collection=names[0], codes=codes, projections=projections, features=list(QUERIES), k=4,
            score="asymmetric",
        )  # fmt: skip
    async with AsyncClient(cluster.address) as client:
        calls = [
            client.search(collection=names[0], code=code, projections=own, k=4, **mode)  # type: ignore[arg-type]
            for mode in ({"score": "asymmetric"}, {"rerank": "asymmetric"}, {})
            for code, own in zip(codes, projections, strict=True)
        ]
        answers = await asyncio.gather(*calls)
    assert [pairs(result) for result in batch] == [pairs(result) for result in answers[: len(codes)]]
    for query, result in zip(QUERIES, answers[len(codes) : 2 * len(codes)], strict=True):
        assert pairs(result) == best(candidates(query, 40), asymmetric(query), 4)
    for query, result in zip(QUERIES, answers[2 * len(codes) :], strict=True):
        assert [hit.key for hit in result.hits] == [KEYS[row] for row in candidates(query, 4)]


def test_features_are_replaced_and_deleted_with_their_record(client: Client, collection: str) -> None:
    name = f"{collection}-again"
    client.create_collection(name, code_space=SPACE, features="int8", feature_width=WIDTH)
    client.upsert(records()[:30], collection=name)
    swapped = Record(KEYS[0], code=CODES[0].tobytes(), features=FEATURES[20])
    client.upsert([swapped], collection=name)
    client.delete(KEYS[10:12], collection=name)
    result = search(client, name, FEATURES[20], k=30, rerank="features")
    assert len(result.hits) == 28
    assert {hit.key for hit in result.hits if hit.score > 0.999} == {KEYS[0], KEYS[20]}
    client.drop_collection(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rerank": "asymmetric"}, "projections: are missing"),
        ({"score": "asymmetric"}, "projections: are missing"),
        ({"rerank": "features"}, "features: are missing"),
        ({"rerank": "features", "features": np.zeros(3, np.float32)}, "features: have 12 bytes; send 48 float32"),
        ({"rerank": "asymmetric", "projections": np.ones(BITS, np.float32)}, "their signs do not match"),
        ({"rerank": "asymmetric", "projections": np.full(BITS, np.nan, np.float32)}, "NaN"),
        ({"rerank": "asymmetric", "projections": [1.0]}, "projections: are list"),
        ({"rerank": "features", "score": "asymmetric"}, "requires score hamming"),
        ({"score": "cosine"}, "score: unknown value 'cosine'; use hamming or asymmetric"),
        ({"rerank": "features", "oversampling": 0}, "oversampling: is 0"),
        (
            {"rerank": "features", "oversampling": 1_001},
            "oversampling: is 1001; use a whole number from 1 to 1,000",
        ),
    ],
)
def test_a_score_without_its_inputs_is_rejected(
    cluster: Cluster, names: list[str], options: dict[str, object], words: str
) -> None:
    with cluster.client() as client, pytest.raises(InvalidRequest, match=words):
        client.search(collection=names[0], code=CODES[0].tobytes(), **options)  # type: ignore[arg-type]


def test_features_are_accepted_only_by_collections_that_store_them(
    cluster: Cluster, names: list[str], client: Client, collection: str
) -> None:
    code = CODES[0].tobytes()
    for record, words in (
        (Record("x", code=code), "features: have 0 bytes; send 48"),
        (Record("x", code=code, features=FEATURES[0][:5]), "features: have 20 bytes; send 48"),
        (Record("x", image=b"1", features=FEATURES[0]), "features: send them only with a code"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            client.upsert([record], collection=names[0])
    with pytest.raises(InvalidRequest, match="this collection stores none"):
        client.upsert([Record("x", code=code, features=FEATURES[0])], collection=collection)
    with pytest.raises(InvalidRequest, match="this collection stores no features"):
        client.search(collection=collection, code=code, rerank="features", features=FEATURES[0])
    with pytest.raises(InvalidRequest, match="feature_width: is missing"):
        client.create_collection("unwidened", bits=64, features="int8")
    assert client.get_collection(names[0]).rows == N
    assert client.get_collection(collection).rows == 0


def test_the_stored_hash_reproduces_the_codes(cluster: Cluster, names: list[str], tmp_path: Path) -> None:
    with cluster.client() as client:
        kept: LinearHash = from_bytes(client.get_hash_file(names[0]), "the collection's hash")
    with pytest.raises(InvalidRequest, match=r"output: .* cannot be written to .*; name a file"):
        hash_(names[0], tmp_path / "none" / "hash.npz", cluster.address)
    assert (kept.codes(QUERIES) == HASH.codes(QUERIES)).all()
    assert kept.digest == HASH.digest


def vector(width: int) -> np.ndarray:
    return np.arange(1, width + 1, dtype=np.float32)


def test_a_stale_coordinator_cache_never_mixes_features(cluster: Cluster) -> None:
    """60 one-byte values take as many bytes as 32 two-byte values, so their length does not tell them apart."""
    code = bytes(8)
    with second_coordinator(cluster) as address, Client(address) as late, cluster.client() as client:
        client.create_collection("remade", bits=64, features="int8", feature_width=60)
        late.upsert([Record("a", code=code, features=vector(60))], collection="remade")
        for kind, width in (("float16", 32), ("none", 0), ("int8", 28), ("int8", 60)):
            client.drop_collection("remade")
            client.create_collection("remade", bits=64, features=kind, feature_width=width)
            own = vector(width) if width else None
            wrong = Record("wrong", code=code, features=vector(60 if width != 60 else 28))
            with pytest.raises(InvalidRequest, match="features: "):
                late.upsert([wrong], collection="remade")
            outcomes = list(late.ingest([wrong, Record("b", code=code, features=own)], collection="remade"))
            assert [outcome.ok for outcome in outcomes] == [False, True], (kind, width)
            assert late.upsert([Record("a", code=code, features=own)], collection="remade") == 1
            if width:
                for asked in (late, client):
                    result = asked.search(collection="remade", key="a", rerank="features")
                    assert [(hit.key, hit.score) for hit in result.hits] == [("b", pytest.approx(1.0))]
        client.drop_collection("remade")


def test_a_stream_through_a_stale_coordinator_stores_the_right_features(cluster: Cluster) -> None:
    code = bytes(8)
    with second_coordinator(cluster) as address, Client(address) as late, cluster.client() as client:
        client.create_collection("streamed", bits=64)
        late.upsert([Record("a", code=code)], collection="streamed")
        client.drop_collection("streamed")
        client.create_collection("streamed", bits=64, features="int8", feature_width=5)
        record = Record("a", code=code, features=vector(5))
        assert [outcome.ok for outcome in late.ingest([record], collection="streamed")] == [True]
        client.drop_collection("streamed")


def test_an_oversized_rerank_is_rejected_before_any_read(client: Client) -> None:
    client.create_collection("wide", bits=64, features="int8", feature_width=65_536)
    client.upsert([Record("a", code=bytes(8), features=vector(65_536))], collection="wide")
    for queries, options in ((1_000, {"k": 1, "oversampling": 1}), (30, {"k": 20, "oversampling": 10})):
        with pytest.raises(InvalidRequest, match="65,536 features are too much at once; ask for fewer queries"):
            client.search_batch(collection="wide", keys=["a"] * queries, rerank="features", **options)
    assert len(client.search_batch(collection="wide", keys=["a"] * 30, k=1, rerank="features")) == 30
    client.drop_collection("wide")


def test_response_size_is_bounded_for_every_score(client: Client) -> None:
    client.create_collection("heavy", bits=64)
    heavy = {"text": "x" * 60_000}
    client.upsert([Record(str(n), code=bytes([n] * 8), attributes=heavy) for n in range(60)], collection="heavy")
    codes = [bytes([n] * 8) for n in range(30)]
    signs = [np.where(np.unpackbits(np.frombuffer(code, np.uint8)), 1.0, -1.0) for code in codes]
    for options in ({}, {"score": "asymmetric", "projections": signs}):
        with pytest.raises(InvalidRequest, match="the answer would take over 29,360,128 bytes"):
            client.search_batch(collection="heavy", codes=codes, k=60, **options)  # type: ignore[arg-type]
    one = client.search(collection="heavy", code=codes[7], k=3, score="asymmetric", projections=signs[7])
    assert one.hits[0].key == "7"
    client.drop_collection("heavy")


def test_projections_of_a_batch_may_be_one_array(cluster: Cluster, names: list[str]) -> None:
    codes = [code.tobytes() for code in HASH.codes(QUERIES)]
    with cluster.client() as client:
        options: dict[str, Any] = {"codes": codes, "collection": names[0], "k": 3}
        one = client.search_batch(**options, projections=HASH.projections(QUERIES), score="asymmetric")
        many = client.search_batch(**options, projections=list(HASH.projections(QUERIES)), score="asymmetric")
    assert [pairs(result) for result in one] == [pairs(result) for result in many]


def test_a_shard_rejects_features_that_are_not_finite(cluster: Cluster, names: list[str]) -> None:
    with cluster.client() as client:
        fingerprint = client.get_collection(names[0]).code_space.fingerprint
    features = Indexing(features="int8", feature_width=WIDTH).features_text
    nan = np.array(np.nan, "<f4").tobytes()
    with grpc.insecure_channel(cluster.config.shard_address(0)) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        record = shard_pb2.ShardRecord(key="x", code=bytes(8), version=1, features=nan + bytes(WIDTH))
        request = shard_pb2.WriteRequest(
            collection=names[0], fingerprint=fingerprint, records=[record], features=features
        )
        with pytest.raises(grpc.RpcError, match="has NaN or infinity"):
            stub.Write(request)
        with pytest.raises(grpc.RpcError, match="the collection was recreated"):
            stub.Write(shard_pb2.WriteRequest(collection=names[0], fingerprint=fingerprint, records=[record]))
        group = shard_pb2.ScanGroup(
            collection=names[0], fingerprint=fingerprint, codes=bytes(8), k=1, features=features,
            scoring=shard_pb2.SCORING_RERANK_FEATURES, inputs=nan * WIDTH,
        )  # fmt: skip
        answer = stub.Scan(shard_pb2.ScanRequest(groups=[group])).groups[0]
        assert (answer.error, "NaN or infinity" in answer.message) == ("InvalidRequest", True)
        space = codespace_pb2.CodeSpace(bits=64, backbone="external", hash_method="external")
        half = codespace_pb2.Indexing(features=codespace_pb2.Indexing.FEATURES_INT8)
        with pytest.raises(grpc.RpcError, match="feature_width: is missing"):
            stub.OpenCollection(shard_pb2.OpenCollectionRequest(name="half", code_space=space, indexing=half))
