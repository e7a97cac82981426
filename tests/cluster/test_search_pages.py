"""Pages, ranges, groups and excluded keys on clusters of 1, 2 and 5 partitions, through the SDK, against brute
force."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike import AsyncClient, Client, Hit, HitGroup, Record
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, NotFound, PartitionUnavailable
from lookalike.model.records import record_id
from tests import oracle
from tests.conftest import Cluster, running_cluster, second_coordinator

ROWS, EQUAL, BITS = 16_000, 12_000, 64
QUERY = bytes(8)


def code(i: int) -> bytes:
    """The first codes are equal; the others have few different distances, so that most of them tie."""
    return QUERY if i < EQUAL else (2 ** (i % 11) - 1).to_bytes(8, "big")


def attributes(i: int) -> dict[str, Any]:
    if i % 5 == 4:
        return {"n": i}
    return {"n": i, "label": f"label {i * i % 701}", "tags": [i % 3, f"t{i % 17}"]}


@pytest.fixture(scope="module", params=[1, 2, 5])
def filled_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("pages"), partitions=request.param) as cluster:
        with cluster.client() as client:
            client.create_collection("c", bits=BITS)
            client.create_collection("hashed", bits=BITS, index="mih")
            keys, codes = [f"k{i}" for i in range(ROWS)], np.frombuffer(b"".join(map(code, range(ROWS))), np.uint8)
            for name in ("c", "hashed"):
                report = client.ingest_arrays(
                    keys, codes.reshape(ROWS, 8), list(map(attributes, range(ROWS))), collection=name
                )
                assert report.stored == ROWS
        yield cluster


@pytest.fixture
def user(filled_cluster: Cluster) -> Iterator[Client]:
    with filled_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def order() -> list[tuple[int, str]]:
    """All (distance, key), in order."""
    return oracle.nearest_keys({f"k{i}": code(i) for i in range(ROWS)}, QUERY, ROWS)


def pairs(hits: list[Hit]) -> list[tuple[int, str]]:
    return [(hit.distance, hit.key) for hit in hits]


@pytest.mark.parametrize("collection", ["c", "hashed"])
@pytest.mark.parametrize("page_size", [10_000, 1_009])
def test_pages_reach_the_last_record_without_gaps_and_duplicates(
    user: Client, order: list[tuple[int, str]], page_size: int, collection: str
) -> None:
    found = list(user.search_all(code=QUERY, collection=collection, page_size=page_size))
    assert pairs(found) == order
    assert all(hit.attributes == attributes(int(hit.key[1:])) for hit in found[::97])


@pytest.mark.parametrize("consistency", ["one", "quorum"])
def test_a_search_by_key_with_filter_and_exclusions_is_paged(
    user: Client, order: list[tuple[int, str]], consistency: str
) -> None:
    without = [key for _, key in order[10:900:3]]
    found = user.search_all(
        key="k7", collection="c", filter={"label": {"$exists": True}}, exclude_keys=without, page_size=4_999,
        consistency=consistency, include_attributes=False,
    )  # fmt: skip
    dropped = {"k7", *without}
    assert pairs(list(found)) == [
        (distance, key) for distance, key in order if key not in dropped and "label" in attributes(int(key[1:]))
    ]


def test_a_range_says_whether_it_is_whole(user: Client, order: list[tuple[int, str]]) -> None:
    cut = user.search(code=QUERY, collection="c", max_distance=0, k=10_000, include_attributes=False)
    assert (len(cut.hits), cut.exact, cut.more) == (10_000, True, True)
    rest = user.search(code=QUERY, collection="c", max_distance=0, k=10_000, after=cut.cursor)
    within = [place for place in order if place[0] == 0]
    assert (rest.exact, rest.more, rest.cursor) == (True, False, "")
    assert pairs(cut.hits) + pairs(rest.hits) == within
    for radius in (1, 5):
        found = user.search_all(code=QUERY, collection="c", max_distance=radius, page_size=3_000)
        assert pairs(list(found)) == [place for place in order if place[0] <= radius]
    whole = user.search(code=b"\xff" * 8, collection="c", max_distance=5, k=10)
    assert (whole.hits, whole.more, whole.cursor) == ([], False, "")


def test_offsets_skip_hits(user: Client, order: list[tuple[int, str]]) -> None:
    for offset, k in ((0, 5), (3, 7), (9_990, 10)):
        found = user.search(code=QUERY, collection="c", offset=offset, k=k)
        assert pairs(found.hits) == order[offset : offset + k]
        onward = user.search(code=QUERY, collection="c", after=found.cursor, k=3)
        assert pairs(onward.hits) == order[offset + k : offset + k + 3]
    batch = user.search_batch(codes=[QUERY, b"\xff" * 8], collection="c", offset=2, k=4)
    assert pairs(batch[0].hits) == order[2:6]
    assert [result.more for result in batch] == [True, True]
    beyond = user.search(code=QUERY, collection="c", filter={"n": {"$lt": 3}}, offset=5)
    assert (beyond.hits, beyond.more, beyond.cursor) == ([], False, "")


@pytest.mark.parametrize("consistency", ["one", "quorum"])
def test_excluded_keys_are_replaced_by_others(
    user: Client, order: list[tuple[int, str]], consistency: str
) -> None:
    without = {key for _, key in order[:4_000]} | {"never"}
    expected = [place for place in order if place[1] not in without]
    for k in (1, 10, 10_000):
        found = user.search(
            code=QUERY, collection="c", exclude_keys=sorted(without), k=k, consistency=consistency,
            include_attributes=False,
        )  # fmt: skip
        assert pairs(found.hits) == expected[:k]
    own = user.search(key="k3", collection="c", exclude_keys=sorted(without), k=10)
    assert pairs(own.hits) == [place for place in expected if place[1] != "k3"][:10]


@pytest.mark.parametrize(
    ("attribute", "k", "size"), [("label", 10, 3), ("label", 1_000, 10), ("tags", 7, 5), ("n", 3, 2)]
)
def test_groups_are_those_of_brute_force(user: Client, attribute: str, k: int, size: int) -> None:
    records = {f"k{i}": (code(i), attributes(i)) for i in range(ROWS)}
    query = code(EQUAL + 5)

    def expected(**kept: Any) -> list[tuple[Any, list[tuple[int, str]]]]:
        return oracle.nearest_groups(kept, query, attribute, k, size)

    found = user.search(code=query, collection="c", group_by=attribute, group_size=size, k=k)
    assert [(group.value, pairs(group.hits)) for group in found.groups] == expected(**records)
    assert (found.hits, found.exact, found.cursor) == ([], True, "")
    assert found.more == (attribute == "n" or k < {"label": 701, "tags": 20}[attribute] - 1)
    assert all(hit.attributes == attributes(int(hit.key[1:])) for group in found.groups for hit in group.hits)
    options: dict[str, Any] = {
        "filter": {"n": {"$gte": 9_000}},
        "max_distance": 6,
        "exclude_keys": ["k9000", "k12001"],
    }
    found = user.search(key="k12005", collection="c", group_by=attribute, group_size=size, k=k, **options)
    kept = {
        key: (bits, given)
        for key, (bits, given) in records.items()
        if given["n"] >= 9_000
        and key not in ("k9000", "k12001", "k12005")
        and (int.from_bytes(bits, "big") ^ int.from_bytes(query, "big")).bit_count() <= 6
    }
    assert query == code(12_005)
    assert [(group.value, pairs(group.hits)) for group in found.groups] == expected(**kept)


def test_a_cursor_continues_only_its_own_search(
    filled_cluster: Cluster, user: Client, order: list[tuple[int, str]]
) -> None:
    found = user.search(code=QUERY, collection="c", k=10)
    with second_coordinator(filled_cluster) as address, Client(address) as other:
        onward = other.search(
            code=QUERY, collection="c", k=20, after=found.cursor, include_attributes=False, consistency="quorum"
        )
        assert pairs(onward.hits) == order[10:30]
    for options in (
        {"code": b"\1" * 8}, {"code": None, "key": "k1"}, {"max_distance": 3}, {"filter": {"n": 1}},
        {"exclude_keys": ["k1"]}, {"collection": "hashed"},
    ):  # fmt: skip
        given: dict[str, Any] = {"code": QUERY, "collection": "c", "after": found.cursor} | options
        with pytest.raises(InvalidRequest, match="after: is the cursor of another search"):
            user.search(**given)


def test_pages_keep_their_order_when_the_querys_record_changes(user: Client) -> None:
    user.create_collection("moving", bits=BITS)
    try:
        user.upsert([Record(f"k{i}", code=i.to_bytes(8, "big")) for i in range(200)], collection="moving")
        expected = [hit.key for hit in user.search(key="k0", collection="moving", k=200).hits]
        first = user.search(key="k0", collection="moving", k=50)
        user.upsert([Record("k0", code=b"\xff" * 8)], collection="moving")
        second = user.search(key="k0", collection="moving", k=50, after=first.cursor)
        user.delete(["k0"], collection="moving")
        third = user.search(key="k0", collection="moving", k=200, after=second.cursor)
        assert [hit.key for page in (first, second, third) for hit in page.hits] == expected
        with pytest.raises(NotFound):
            user.search(key="k0", collection="moving")
    finally:
        user.drop_collection("moving")


def test_an_attribute_that_no_record_has_gives_no_groups_and_a_warning(user: Client) -> None:
    found = user.search(code=QUERY, collection="c", group_by="lable")
    assert (found.groups, found.hits, found.more, found.exact) == ([], [], False, True)
    (warning,) = found.warnings
    assert "'lable'" in warning
    assert "'label'" in warning


def test_impossible_combinations_are_refused(user: Client) -> None:
    cursor = user.search(code=QUERY, collection="c").cursor
    one: dict[str, Any] = {"code": QUERY, "collection": "c"}
    for options, message in (
        ({"after": "nonsense"}, "after: 'nonsense' is not a cursor that an answer came with"),
        ({"after": user.scroll_page(collection="c", limit=1).cursor}, "after: .* is not a cursor that an answer"),
        ({"after": cursor, "offset": 3}, "offset: is given with after"),
        ({"after": cursor, "rerank": "asymmetric"}, "after: a rerank orders only its candidates"),
        ({"group_by": "label", "after": cursor}, "group_by: cannot be combined with after and offset"),
        ({"group_by": "label", "offset": 1}, "group_by: cannot be combined"),
        ({"group_by": "label", "rerank": "asymmetric"}, "group_by: needs score hamming"),
        ({"group_by": "label", "consistency": "quorum"}, "group_by: reads one replica"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            user.search(**one, **options)
    for options, message in (
        ({"after": cursor}, "after: is for one query, not for a batch"),
        ({"group_by": "label"}, "group_by: is for one query, not for a batch"),
    ):
        for count in (1, 2):
            with pytest.raises(InvalidRequest, match=message):
                user.search_batch(codes=[QUERY] * count, collection="c", **options)
    for options, message in (
        ({"k": 5}, "k: does not apply to all pages"),
        ({"rerank": "asymmetric"}, "rerank: such a search has no further pages"),
        ({"group_by": "label"}, "group_by: such a search has no further pages"),
        ({"allow_partial": True}, "allow_partial: a page without some partitions has gaps"),
        ({"limit": 0}, "limit: is 0"),
        ({"page_size": 10_001}, "k: is 10001"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            next(iter(user.search_all(**one, **options)))


def test_asymmetric_scores_are_paged(user: Client) -> None:
    rng = np.random.default_rng(1)
    projections = np.where(rng.random(BITS) < 0.5, -1, 1) * rng.integers(1, 4, BITS).astype(np.float32)
    query = np.packbits(projections > 0).tobytes()
    options: dict[str, Any] = {
        "code": query, "projections": projections, "collection": "c", "score": "asymmetric",
        "include_attributes": False,
    }  # fmt: skip
    whole = user.search(**options, k=10_000)
    found = [(hit.key, hit.distance, hit.score) for hit in user.search_all(**options, page_size=3_000)]
    assert found[:10_000] == [(hit.key, hit.distance, hit.score) for hit in whole.hits]
    assert len({key for key, _, _ in found}) == ROWS
    assert found == sorted(found, key=lambda hit: (-hit[2], record_id(hit[0])))


async def test_the_async_client_pages_too(filled_cluster: Cluster, order: list[tuple[int, str]]) -> None:
    async with AsyncClient(filled_cluster.address) as client:
        found = [hit async for hit in client.search_all(code=QUERY, collection="c", page_size=700, limit=2_000)]
        assert pairs(found) == order[:2_000]
        (group,) = (await client.search(code=QUERY, collection="c", group_by="tags", k=1)).groups
        assert isinstance(group, HitGroup)


def test_an_incomplete_answer_cannot_be_continued(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2) as cluster, cluster.client(timeout=3) as client:
        client.create_collection("c", bits=BITS)
        client.upsert([Record(f"k{i}", code=code(i), attributes={"n": i % 9}) for i in range(600)], collection="c")
        first = client.search(code=QUERY, collection="c", k=10)
        cluster.kill("shard-r0-1", signal.SIGSTOP)
        try:
            _check_partial_answers(client, first.cursor)
        finally:
            cluster.kill("shard-r0-1", signal.SIGCONT)


def _check_partial_answers(client: Client, cursor: str) -> None:
    """One of two partitions does not answer."""
    missing = pytest.raises((PartitionUnavailable, DeadlineExceeded), match="partition 1")
    with missing:
        client.search(code=QUERY, collection="c", k=10, after=cursor)
    with missing:
        client.search(code=QUERY, collection="c", group_by="n")
    part = client.search(code=QUERY, collection="c", k=10, allow_partial=True)
    assert (len(part.hits), part.more, part.exact, part.cursor) == (10, True, False, "")
    groups = client.search(code=QUERY, collection="c", group_by="n", k=3, allow_partial=True)
    assert (len(groups.groups), groups.exact, groups.coverage.complete) == (3, False, False)
