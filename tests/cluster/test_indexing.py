"""Collections with an index return the same results, show their index, and reject invalid ones."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

from lookalike import Client, Record
from lookalike.model.errors import AlreadyExists, InvalidRequest
from tests.cluster.test_cli import document, failure
from tests.conftest import Cluster
from tests.oracle import nearest_keys, random_codes


def test_an_index_does_not_change_results(client: Client) -> None:
    rng = np.random.default_rng(0)
    codes = {f"k{i}": code.tobytes() for i, code in enumerate(random_codes(rng, 2_000, 64))}
    labels = {key: f"l{i % 100}" for i, key in enumerate(codes)}
    client.create_collection("indexed", bits=64, index="mih", index_attributes=["label", "shot.year"])
    records = [
        Record(key, code=code, attributes={"label": labels[key], "shot": {"year": i}})
        for i, (key, code) in enumerate(codes.items())
    ]
    client.upsert(records[:1_500], collection="indexed")
    query = random_codes(rng, 1, 64)[0].tobytes()

    def answer(condition: object, **options: object) -> list[tuple[int, str]]:
        result = client.search(code=query, k=9, collection="indexed", filter=condition, **options)
        return [(hit.distance, hit.key) for hit in result.hits]

    for stored in (records[:1_500], records):
        client.upsert(stored, collection="indexed")
        for _ in range(2):
            kept = {r.key: codes[r.key] for r in stored if labels[r.key] in ("l3", "l4")}
            assert answer({"label": {"$in": ["l3", "l4"]}}) == nearest_keys(kept, query, 9)
            kept = {r.key: codes[r.key] for r in stored if r.attributes["shot"]["year"] >= 1_400}
            assert answer({"shot.year": {"$gte": 1_400}}) == nearest_keys(kept, query, 9)
            kept = {r.key: codes[r.key] for r in stored if labels[r.key] != "l3"}
            assert answer({"$not": {"label": "l3"}}) == nearest_keys(kept, query, 9)
    client.delete(["k3", "k103"], collection="indexed")
    gone = {key: code for key, code in codes.items() if labels[key] == "l3" and key not in ("k3", "k103")}
    assert answer({"label": "l3"}) == nearest_keys(gone, query, 9)
    within = [hit for hit in nearest_keys(codes, query, 2_000) if hit[0] <= 20 and hit[1] not in ("k3", "k103")]
    assert answer(None, max_distance=20) == within[:9]
    client.drop_collection("indexed")


def test_an_index_is_shown_and_immutable(cluster: Cluster, client: Client) -> None:
    at = ("--server", cluster.address)
    of = ("--bits", 128, "--index", "mih", "--index-attribute", "label", "--index-attribute", "o'brien", *at)
    assert document("collection", "create", "shown", *of)["indexing"] == {
        "kind": "mih",
        "attributes": ["label", "o'brien"],
        "features": "none",
        "feature_width": 0,
    }
    assert client.get_collection("shown").indexing.attributes == ("label", "o'brien")
    with pytest.raises(AlreadyExists, match="other indexing"):
        client.create_collection("shown", bits=128)
    client.drop_collection("shown")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--index", "hnsw"), "index: unknown value 'hnsw'; use 'scan' or 'mih'"),
        (("--index", "mih", "--bits", 1024), "multiple of 64 bits from 64 to 512, these have 1024"),
        (("--index-attribute", 'a"b'), "index attributes: field"),
        (("--index-attribute", "a", "--index-attribute", "a"), "name each once"),
    ],
)
def test_an_invalid_index_is_rejected(
    cluster: Cluster, client: Client, options: tuple[object, ...], words: str
) -> None:
    bits = () if "--bits" in options else ("--bits", 64)
    assert words in failure("collection", "create", "never", *bits, *options, "--server", cluster.address)
    assert "never" not in {collection.name for collection in client.list_collections()}


def test_too_many_indexed_attributes_are_rejected(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="name at most 16"):
        client.create_collection("never", bits=64, index_attributes=[f"a{i}" for i in range(17)])


@pytest.mark.parametrize("indexed", [(), ("x",)])
def test_concurrent_searches_distinguish_true_from_one(client: Client, indexed: tuple[str, ...]) -> None:
    client.create_collection("kinds", bits=64, index_attributes=indexed)
    values = {"bool": True, "one": 1, "float": 1.0, "text": "1"}
    client.upsert([Record(k, code=bytes(8), attributes={"x": v}) for k, v in values.items()], collection="kinds")

    def keys(condition: object) -> set[str]:
        return {hit.key for hit in client.search(code=bytes(8), collection="kinds", filter=condition).hits}

    wanted = [(True, {"bool"}), (1, {"one", "float"}), ("1", {"text"})]
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        for _ in range(5):
            answers = list(threads.map(keys, [{"x": value} for value, _ in wanted * 4]))
            assert answers == [expected for _, expected in wanted * 4]
    assert keys({"x": {"$in": [True] * 999}}) == {"bool"}
    client.drop_collection("kinds")
