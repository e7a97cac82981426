"""Counts, scrolls, facets and changes of attributes on a real cluster, through the SDK."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike import AsyncClient, Client, Facet, Record
from lookalike.model.errors import InvalidRequest, NotFound, UnknownFieldWarning
from lookalike.model.records import record_id
from tests.conftest import Cluster, running_cluster, second_coordinator

ROWS = 3_000
CAT = {"label": "cat"}


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


def attributes(i: int) -> dict[str, Any]:
    return {"label": ("cat", "dog", "eel")[i % 3], "n": i, "tags": [i % 2, "x"]}


@pytest.fixture
def filled(client: Client, collection: str) -> str:
    client.upsert(
        [Record(f"k{i}", code=code(i), attributes=attributes(i)) for i in range(ROWS)], collection=collection
    )
    return collection


def test_count_is_exact_and_says_its_coverage(client: Client, filled: str) -> None:
    found = client.count(collection=filled, filter={**CAT, "n": {"$lt": 300}})
    assert found.count == 100
    assert found.coverage.complete
    assert found.coverage.rows_searched == ROWS
    assert client.count(collection=filled).count == ROWS
    client.delete(["k0", "k1"], collection=filled)
    assert client.count(collection=filled).count == ROWS - 2
    assert client.count(collection=filled, filter=CAT).count == ROWS // 3 - 1


@pytest.mark.parametrize("consistency", ["one", "quorum"])
@pytest.mark.parametrize("page_size", [7, 1_001, 10_000])
def test_scroll_returns_all_matching_records_in_id_order(
    client: Client, filled: str, page_size: int, consistency: str
) -> None:
    condition = {"n": {"$gte": ROWS - 60}} if page_size == 7 else CAT
    expected = [f"k{i}" for i in range(ROWS) if (i >= ROWS - 60 if page_size == 7 else i % 3 == 0)]
    found = client.scroll(
        collection=filled, filter=condition, page_size=page_size, consistency=consistency, include_codes=True
    )
    records = list(found)
    assert [record.key for record in records] == sorted(expected, key=record_id)
    for record in records:
        i = int(record.key[1:])
        assert (record.code, record.attributes) == (code(i), attributes(i))


def test_scroll_returns_only_what_was_asked_for(client: Client, collection: str) -> None:
    thumbnail = b"\xff\xd8\xff\xe0 jpeg"
    client.upsert([Record("a", code=code(1), attributes=CAT, thumbnail=thumbnail)], collection=collection)

    def read(**options: Any) -> tuple[bytes, dict[str, Any], bytes]:
        (record,) = client.scroll(collection=collection, **options)
        assert record.version > 0
        return record.code, record.attributes, record.thumbnail

    for consistency in ("one", "quorum"):
        assert read(consistency=consistency) == (b"", CAT, b"")
        bare = {"include_attributes": False, "consistency": consistency}
        assert read(**bare, include_codes=True, include_thumbnails=True) == (code(1), {}, thumbnail)


def test_scroll_stops_at_the_limit_and_goes_on_from_a_cursor_at_another_coordinator(
    cluster: Cluster, client: Client, filled: str
) -> None:
    everything = [record.key for record in client.scroll(collection=filled)]
    assert [record.key for record in client.scroll(collection=filled, limit=1_500, page_size=400)] == everything[
        :1_500
    ]
    page = client.scroll_page(collection=filled, limit=10)
    assert [record.key for record in page.records] == everything[:10]
    # The cursor names a record that need not exist any more.
    client.delete([everything[9]], collection=filled)
    with second_coordinator(cluster) as address, Client(address) as other:
        rest = other.scroll(collection=filled, cursor=page.cursor)
        assert [record.key for record in rest] == everything[10:]


def test_pages_end_at_a_limit_of_bytes(client: Client, collection: str) -> None:
    large = {"text": "x" * 60_000}
    for start in range(0, 600, 200):
        client.upsert(
            [Record(f"k{i}", code=code(i), attributes=large) for i in range(start, start + 200)],
            collection=collection,
        )
    for consistency in ("one", "quorum"):
        page = client.scroll_page(collection=collection, limit=10_000, consistency=consistency)
        assert 100 < len(page.records) < 600
        assert len({record.key for record in client.scroll(collection=collection, consistency=consistency)}) == 600


def test_a_field_of_one_record_is_known_on_every_page(client: Client, filled: str) -> None:
    client.upsert([Record("rare", code=code(0), attributes={"rare": 1})], collection=filled)
    common = {"$not": {"rare": 1}}
    for consistency in ("one", "quorum"):
        found = client.scroll(collection=filled, filter=common, page_size=50, consistency=consistency)
        assert len([record.key for record in found]) == ROWS


def test_facets_are_exact(client: Client, filled: str) -> None:
    found = client.facets("label", collection=filled, filter={"n": {"$lt": 301}})
    assert found.facets == [Facet("cat", 101), Facet("dog", 100), Facet("eel", 100)]
    assert (found.other_values, found.other_count) == (0, 0)
    found = client.facets("tags", collection=filled, limit=2)
    assert found.facets == [Facet("x", ROWS), Facet(0, ROWS // 2)]
    assert (found.other_values, found.other_count) == (1, ROWS // 2)
    every = client.facets("n", collection=filled, limit=ROWS)
    assert Counter(facet.value for facet in every.facets) == Counter(range(ROWS))


def test_too_many_facets_are_an_error_that_says_so(client: Client, collection: str) -> None:
    count = 100_001
    codes = np.zeros((count, 8), np.uint8)
    keys = [f"k{i}" for i in range(count)]
    numbers = np.arange(count)
    report = client.ingest_arrays(keys, codes, {"n": numbers}, collection=collection)
    assert report.stored == count
    with pytest.raises(InvalidRequest, match="'n' has over 100,000 values"):
        client.facets("n", collection=collection)
    assert client.facets("n", collection=collection, filter={"n": {"$gt": 0}}, limit=1).other_values == count - 2


def test_exists_and_get_take_any_number_of_keys(client: Client, filled: str) -> None:
    keys = [f"k{i}" for i in range(12_000)]
    assert client.exists(keys, collection=filled) == [i < ROWS for i in range(12_000)]
    assert [record.key for record in client.get(keys, collection=filled)] == keys[:ROWS]
    assert client.exists(["k1", "no", "k1"], collection=filled, consistency="quorum") == [True, False, True]


def test_attributes_change_alone(client: Client, collection: str) -> None:
    thumbnail = b"\xff\xd8\xff\xe0 jpeg"
    given = {"label": "cat", "camera": {"maker": "a", "lens": 1}, "n": 1}
    client.upsert([Record("a", code=code(5), attributes=given, thumbnail=thumbnail)], collection=collection)
    (before,) = client.get(["a"], collection=collection, include_thumbnails=True)
    change = {"label": "dog", "camera": {"maker": "b"}}
    for _ in range(2):
        assert client.set_attributes(change, collection=collection, keys=["a", "never"]) == 1
    assert client.remove_attributes(["n", "never"], collection=collection, keys=["a"]) == 1
    (after,) = client.get(["a"], collection=collection, include_thumbnails=True)
    assert (after.code, after.thumbnail) == (before.code, thumbnail)
    assert after.attributes == {"label": "dog", "camera": {"maker": "b"}}
    assert after.version > before.version
    assert client.count(collection=collection, filter={"label": "dog"}).count == 1
    assert client.exists(["never"], collection=collection) == [False]


def test_features_survive_a_change_of_attributes(client: Client, collection: str) -> None:
    name = f"{collection}-features"
    client.create_collection(name, bits=64, features="int8", feature_width=4)
    vectors = {"a": np.array([1, 0, 0, 0], np.float32), "b": np.array([0, 1, 0, 0], np.float32)}
    client.upsert([Record(key, code=code(0), features=vector) for key, vector in vectors.items()], collection=name)
    with pytest.warns(UnknownFieldWarning, match="no record has a field 'label'"):
        assert client.set_attributes(CAT, collection=name, filter={"label": {"$exists": False}}) == 2
    hits = client.search(code=code(0), features=vectors["b"], rerank="features", collection=name).hits
    assert [(hit.key, round(hit.score, 3), hit.attributes) for hit in hits] == [("b", 1.0, CAT), ("a", 0.0, CAT)]


def test_changes_and_deletions_by_filter_cover_all_matching_records(client: Client, filled: str) -> None:
    assert client.set_attributes({"label": "fox"}, collection=filled, filter={"label": "eel"}) == ROWS // 3
    assert [facet.value for facet in client.facets("label", collection=filled).facets] == ["cat", "dog", "fox"]
    assert client.delete_by_filter({"label": "fox"}, collection=filled) == ROWS // 3
    assert client.delete_by_filter({"label": "fox"}, collection=filled) == 0
    assert client.count(collection=filled).count == ROWS - ROWS // 3


def test_a_change_that_makes_attributes_too_large_names_the_record(client: Client, collection: str) -> None:
    client.upsert([Record("small", code=code(1))], collection=collection)
    client.upsert([Record("big", code=code(1), attributes={"t": "x" * 65_000})], collection=collection)
    with pytest.raises(InvalidRequest, match="record 'big': attributes: take 66,"):
        client.set_attributes({"u": "y" * 1_000}, collection=collection, keys=["small", "big"])


def test_bad_requests_are_refused(client: Client, filled: str) -> None:
    for call, message in (
        (
            lambda: client.scroll_page(collection=filled, cursor="bm8="),
            "cursor: 'bm8=' is not a cursor that a page",
        ),
        (lambda: client.scroll_page(collection=filled, cursor="é"), "cursor: 'é'"),
        (
            lambda: client.scroll_page(collection=filled, limit=65_537),
            "limit: is 65537; use a whole number from 1 to 65,536",
        ),
        (lambda: list(client.scroll(collection=filled, limit=-1)), "limit: is -1; use"),
        (lambda: list(client.scroll(collection=filled, page_size=0)), "limit: is 0; use"),
        (lambda: client.facets("label", collection=filled, limit=True), "limit: is True; use"),
        (lambda: client.remove_attributes([3], collection=filled, keys=["a"]), "names: 3 is int"),
        (lambda: client.facets("", collection=filled), "attribute: field '' is empty"),
        (lambda: client.delete_by_filter(None, collection=filled), "filter: is missing"),
        (lambda: client.set_attributes({}, collection=filled, keys=["a"]), "attributes: none to set or remove"),
        (lambda: client.set_attributes(CAT, collection=filled), "keys: 0 in one request"),
        (lambda: client.set_attributes(CAT, collection=filled, keys=["a"], filter=CAT), "keys: are given with"),
        (
            lambda: client.change_attributes(CAT, ["label"], collection=filled, keys=["a"]),
            "remove: 'label' is also set",
        ),
    ):
        with pytest.raises(InvalidRequest, match=message):
            call()
    with pytest.raises(NotFound):
        client.count(collection="never-created")
    with pytest.raises(NotFound):
        list(client.scroll(collection="never-created"))


async def test_the_async_client_has_the_same_calls(cluster: Cluster, filled: str) -> None:
    async with AsyncClient(cluster.address) as client:
        assert (await client.count(collection=filled, filter=CAT)).count == ROWS // 3
        assert len([record async for record in client.scroll(collection=filled, filter=CAT)]) == ROWS // 3
        assert (await client.facets("label", collection=filled)).facets[0].count == ROWS // 3
        assert await client.set_attributes({"m": 1}, collection=filled, filter=CAT) == ROWS // 3
        assert await client.remove_attributes(["m"], collection=filled, keys=["k0"]) == 1
        assert await client.delete_by_filter({"m": 1}, collection=filled) == ROWS // 3 - 1
        assert await client.exists(["k0", "k3"], collection=filled) == [True, False]


def test_no_concurrent_change_is_lost(tmp_path: Path) -> None:
    """Each thread sets its own attribute of the same records, through two coordinators, while another thread
    overwrites one of the records: every change must be there in the end, and no write undone."""
    keys, rounds, failures = ["a", "b"], 12, list[str]()

    with running_cluster(tmp_path, partitions=2, replicas=3) as cluster, second_coordinator(cluster) as second:
        with cluster.client() as client:
            client.create_collection("c", bits=64)
            client.upsert([Record(key, code=code(0)) for key in (*keys, "w")], collection="c")

        def change(address: str, name: str) -> None:
            with Client(address) as client:
                for i in range(rounds):
                    client.set_attributes({name: i}, collection="c", keys=[*keys, "w"])
                    for record in client.get(keys, collection="c", consistency="quorum"):
                        if record.attributes.get(name) != i:
                            failures.append(f"{record.key}: {name} is {record.attributes.get(name)}, not {i}")

        def overwrite(address: str) -> None:
            with Client(address) as client:
                for i in range(1, 4 * rounds):
                    client.upsert([Record("w", code=code(i))], collection="c")
                    (record,) = client.get(["w"], collection="c", consistency="quorum")
                    if record.code != code(i):
                        failures.append(f"w: code is {record.code.hex()}, not that of write {i}")

        addresses = [cluster.address, second]
        threads = [threading.Thread(target=change, args=(addresses[i % 2], f"t{i}")) for i in range(4)] + [
            threading.Thread(target=overwrite, args=(cluster.address,))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with cluster.client() as client:
            for record in client.get(keys, collection="c", consistency="quorum"):
                assert record.attributes == {f"t{i}": rounds - 1 for i in range(4)}
                assert record.code == code(0)
