"""Search results do not depend on the number of partitions: 1, 2 and 5 are compared with brute force."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from lookalike import AsyncClient, Client, Record
from tests.conftest import Cluster, running_cluster
from tests.oracle import nearest_keys, random_codes

ROWS, BITS, QUERIES = 4_000, 64, 1_000


@pytest.fixture(scope="module")
def records() -> dict[str, bytes]:
    """Few distinct codes, so that ties are everywhere and most cuts go through one."""
    rng = np.random.default_rng(0)
    distinct = random_codes(rng, 300, BITS)
    return {f"picture-{i}": distinct[rng.integers(300)].tobytes() for i in range(ROWS)}


@pytest.fixture(scope="module")
def nearest(records: dict[str, bytes]) -> dict[bytes, list[tuple[int, str]]]:
    """Each query's 10 nearest (distance, key), computed by brute force."""
    queries = [code.tobytes() for code in random_codes(np.random.default_rng(1), QUERIES, BITS)]
    return {query: nearest_keys(records, query, 10) for query in queries}


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_a_thousand_random_queries_equal_brute_force(
    partitions: int, records: dict[str, bytes], nearest: dict[bytes, list[tuple[int, str]]], tmp_path: Path
) -> None:
    queries = list(nearest)
    with running_cluster(tmp_path, partitions) as cluster, cluster.client() as client:
        client.create_collection("c", bits=BITS)
        assert client.upsert([Record(key, code=code) for key, code in records.items()], collection="c") == ROWS
        results = client.search_batch(codes=queries, k=10, collection="c")
        for query, result in zip(queries, results, strict=True):
            assert [(hit.distance, hit.key) for hit in result.hits] == nearest[query]
            assert result.exact
            assert result.coverage.complete
            assert result.coverage.partitions == partitions
            assert result.coverage.rows_searched == result.coverage.rows_known == ROWS
        asyncio.run(_ask_at_once(cluster, nearest, queries[:200]))


async def _ask_at_once(
    cluster: Cluster, nearest: dict[bytes, list[tuple[int, str]]], queries: list[bytes]
) -> None:
    """Single searches with different options, which are coalesced, each get their own answer."""
    async with AsyncClient(cluster.address) as client:
        results = await asyncio.gather(
            *(client.search(code=query, k=1 + i % 7, collection="c") for i, query in enumerate(queries))
        )
    for i, (query, result) in enumerate(zip(queries, results, strict=True)):
        expected = nearest[query][: 1 + i % 7]
        assert [(hit.distance, hit.key) for hit in result.hits] == expected


def test_k_above_the_collection_returns_all_of_it(client: Client, collection: str) -> None:
    client.upsert([Record(f"k{i}", code=bytes([i] * 8)) for i in range(20)], collection=collection)
    assert len(client.search(code=bytes(8), k=10_000, collection=collection).hits) == 20


def test_search_of_an_empty_collection_is_complete(client: Client, collection: str) -> None:
    result = client.search(code=bytes(8), collection=collection)
    assert result.hits == []
    assert result.exact
    assert result.coverage.rows_known == 0
