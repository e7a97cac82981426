"""The SDK's timeouts of single calls, batches over the server's limit, and thumbnails among hits."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lookalike import AsyncClient, Client, Record, SearchResult
from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, PartitionUnavailable
from tests.conftest import Cluster
from tests.oracle import nearest_keys
from tests.web.rest import Rest

THUMBNAIL = b"\x89PNG\r\n\x1a\n and the rest"
CODE = bytes(8)
COLUMNS = CodeColumns(Texts.of(["a"]), np.zeros((1, 8), np.uint8), Texts.of(["{}"]))
# How to call each method: positional arguments, and keywords.
CALLS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "search": ([], {"collection": "c", "key": "a"}),
    "search_all": ([], {"collection": "c", "key": "a"}),
    "search_batch": ([], {"collection": "c", "codes": [CODE]}),
    "get": ([["a"]], {"collection": "c"}),
    "exists": ([["a"]], {"collection": "c"}),
    "count": ([], {"collection": "c"}),
    "scroll": ([], {"collection": "c"}),
    "scroll_columns": ([], {"collection": "c"}),
    "scroll_page": ([], {"collection": "c"}),
    "facets": (["label"], {"collection": "c"}),
    "set_attributes": ([{}], {"collection": "c", "keys": ["a"]}),
    "remove_attributes": ([["label"]], {"collection": "c", "filter": {"label": "cat"}}),
    "change_attributes": ([{}, []], {"collection": "c", "keys": ["a"]}),
    "delete_by_filter": ([{"label": "cat"}], {"collection": "c"}),
    "upsert": ([[Record("a", code=CODE)]], {"collection": "c"}),
    "ingest": ([[Record("a", code=CODE)]], {"collection": "c"}),
    "ingest_arrays": ([["a"], [CODE]], {"collection": "c"}),
    "ingest_columns": ([[COLUMNS]], {"collection": "c"}),
    "delete": ([["a"]], {"collection": "c"}),
    "create_collection": (["c"], {"bits": 64}),
    "create_alias": (["a", "c"], {}),
    "switch_alias": (["a", "c"], {}),
    "delete_alias": (["a"], {}),
    "list_aliases": ([], {}),
    "rename_collection": (["c", "d"], {}),
    "set_ttl": (["c", None], {}),
    "copy_collection": (["c", "d"], {}),
    "get_collection": (["c"], {}),
    "get_hash_file": (["c"], {}),
    "list_collections": ([], {}),
    "drop_collection": (["c"], {}),
    "drain": ([0], {}),
    "backup": (["c", np.ones(1024, np.bool_)], {}),
    "restore": ([[], "c", "", ""], {}),
    "status": ([], {}),
}
LATE = (DeadlineExceeded, PartitionUnavailable)


@pytest.fixture
def filled(client: Client, collection: str) -> str:
    """A collection of ten codes; k3 has a thumbnail."""
    thumbnails = {3: THUMBNAIL}
    client.upsert(
        [Record(f"k{n}", code=n.to_bytes(8, "big"), thumbnail=thumbnails.get(n)) for n in range(10)],
        collection=collection,
    )
    return collection


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def finished(found: Any) -> None:
    if inspect.isgenerator(found):
        list(found)


async def finish(found: Any) -> None:
    if not inspect.isasyncgen(found):
        await found
        return
    async for _ in found:
        continue


def test_every_method_has_its_own_timeout(silent: str) -> None:
    public = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if name[0] != "_"}
    assert public - {"close"} == CALLS.keys()
    with Client(silent, timeout=60) as client:
        for name, (arguments, keywords) in CALLS.items():
            began = time.monotonic()
            with pytest.raises(LATE):
                finished(getattr(client, name)(*arguments, **keywords, timeout=0.1))
            assert time.monotonic() - began < 3, name


async def test_every_asynchronous_method_has_its_own_timeout(silent: str) -> None:
    async def call(client: AsyncClient, name: str) -> None:
        arguments, keywords = CALLS[name]
        with pytest.raises(LATE):
            await finish(getattr(client, name)(*arguments, **keywords, timeout=0.1))

    async with AsyncClient(silent, timeout=60) as client:
        await asyncio.wait_for(asyncio.gather(*(call(client, name) for name in CALLS)), 10)


@pytest.mark.parametrize("timeout", [0, -1, True, "1", 1e9, float("nan")])
def test_invalid_timeout_is_refused(timeout: Any) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match=r"timeout: is .*; use seconds"):
        client.count(collection="c", timeout=timeout)


def test_a_batch_over_the_limit_is_split(client: Client, cluster: Cluster, collection: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (300, 8), np.uint8)
    records = {f"k{row}": code.tobytes() for row, code in enumerate(codes)}
    client.upsert([Record(key, code=code) for key, code in records.items()], collection=collection)
    queries = rng.integers(0, 256, (2_500, 8), np.uint8)
    found = client.search_batch(collection=collection, codes=queries, k=3, keys=["k7"])
    assert len(found) == 2_501
    for query, result in zip(queries, found, strict=False):
        expected = nearest_keys(records, query.tobytes(), 3)
        assert [(hit.distance, hit.key) for hit in result.hits] == expected
    assert found[-1].keys == client.search(collection=collection, key="k7", k=3).keys
    assert {result.coverage.rows_searched for result in found} == {300}
    assert len({result.timings for result in found}) == 1

    async def ask() -> list[SearchResult]:
        async with AsyncClient(cluster.address) as other:
            return await other.search_batch(collection=collection, codes=queries, k=3, keys=["k7"])

    assert [result.hits for result in asyncio.run(ask())] == [result.hits for result in found]


def test_hits_have_thumbnails_on_request(client: Client, cluster: Cluster, filled: str) -> None:
    assert all(hit.thumbnail == b"" for hit in client.search(collection=filled, key="k1").hits)
    for consistency in ("one", "quorum"):
        result = client.search(
            collection=filled,
            key="k1",
            include_thumbnails=True,
            consistency=consistency,  # type: ignore[arg-type]
        )
        assert {hit.key: hit.thumbnail for hit in result.hits if hit.thumbnail} == {"k3": THUMBNAIL}
        assert len(result.hits) == 9
    assert "data:image/png;base64," in result._repr_html_()
    batch = client.search_batch(collection=filled, keys=["k1", "k2"], include_thumbnails=True)
    assert [sum(bool(hit.thumbnail) for hit in one.hits) for one in batch] == [1, 1]
    reply = Rest(cluster.config.coordinator.web)(
        "POST",
        f"/v1/collections/{filled}/search",
        {"query": {"key": "k1"}, "options": {"k": 9, "includeThumbnails": True}},
    )
    assert sum("thumbnail" in hit for hit in reply.json["hits"]) == 1


def test_too_many_thumbnails_are_refused(client: Client, collection: str) -> None:
    client.upsert([Record(f"k{n}", code=n.to_bytes(8, "big")) for n in range(1_001)], collection=collection)
    with pytest.raises(InvalidRequest, match="include_thumbnails: the hits are 1,001 different records; ask for"):
        client.search(collection=collection, code=CODE, k=1_001, include_thumbnails=True)
    assert len(client.search(collection=collection, code=CODE, k=1_000, include_thumbnails=True).hits) == 1_000


def test_records_by_key_are_a_list_that_gives_arrays(client: Client, filled: str) -> None:
    records = client.get(["k3", "k1"], collection=filled, include_thumbnails=True)
    assert [record.key for record in records] == records.keys == ["k3", "k1"]
    assert records.codes.tolist() == [[0] * 7 + [3], [0] * 7 + [1]]
    assert "data:image/png;base64," in records._repr_html_()
