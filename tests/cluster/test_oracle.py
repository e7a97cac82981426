"""Every read of many records equals brute force, for 1, 2 and 5 partitions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookalike import Client, Record
from lookalike.model.records import record_id
from tests.conftest import running_cluster

ROWS = 2_500
Attributes = dict[str, Any]
# By filter: whether a record with these attributes matches.
FILTERS: list[tuple[Attributes | None, Callable[[Attributes], bool]]] = [
    (None, lambda _: True),
    ({"label": "cat"}, lambda found: found["label"] == "cat"),
    ({"n": {"$gte": 100, "$lt": 900}}, lambda found: 100 <= found["n"] < 900),
    ({"tags": 3}, lambda found: 3 in found.get("tags", [])),
    ({"rare": {"$exists": True}}, lambda found: "rare" in found),
    ({"$not": {"label": "cat"}}, lambda found: found["label"] != "cat"),
    ({"$and": [{"label": {"$in": ["dog", "eel"]}}, {"n": {"$gt": 2_000}}]}, lambda found: found["label"] in
     ("dog", "eel") and found["n"] > 2_000),
    ({"n": -1}, lambda _: False),
]  # fmt: skip


def _code(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _fill(client: Client, rng: random.Random) -> dict[str, tuple[bytes, Attributes]]:
    """Writes, overwrites, changes and deletes records. Returns what must be there."""
    client.create_collection("c", bits=64, index_attributes=["label"])
    model: dict[str, tuple[bytes, Attributes]] = {}
    keys = [f"é{i}\n" if i % 50 == 0 else f"k{i}" for i in range(ROWS)]
    for _ in range(2):
        batch = {}
        for key in rng.sample(keys, ROWS * 3 // 4):
            attributes: Attributes = {"label": rng.choice(("cat", "dog", "eel", 'ü"{')), "n": rng.randrange(3_000)}
            if rng.random() < 0.5:
                attributes["tags"] = rng.sample(range(6), rng.randrange(4))
            if rng.random() < 0.01:
                attributes["rare"] = {"deep": True}
            batch[key] = (_code(rng.getrandbits(64)), attributes)
        client.upsert([Record(key, code=code, attributes=found) for key, (code, found) in batch.items()],
                      collection="c")  # fmt: skip
        model.update(batch)
        doomed = rng.sample(sorted(model), 200)
        client.delete(doomed, collection="c")
        for key in doomed:
            del model[key]
        changed = rng.sample(sorted(model), 100)
        client.set_attributes({"n": 5_000}, collection="c", keys=changed)
        for key in changed:
            model[key][1]["n"] = 5_000
    return model


@pytest.mark.parametrize(("partitions", "replicas"), [(1, 3), (2, 2), (5, 1)])
def test_reads_of_many_records_equal_brute_force(tmp_path: Path, partitions: int, replicas: int) -> None:
    rng = random.Random(partitions)
    with running_cluster(tmp_path, partitions, replicas=replicas) as cluster, cluster.client() as client:
        model = _fill(client, rng)
        for condition, matches in FILTERS:
            expected = {key: found for key, found in model.items() if matches(found[1])}
            for consistency in ("one", "quorum"):
                count = client.count(collection="c", filter=condition, consistency=consistency).count
                assert count == len(expected)
            _check_scrolls(client, condition, expected)
            for attribute in ("label", "tags"):
                _check_facets(client, attribute, condition, expected)
        keys = [*rng.sample(sorted(model), 1_500), *(f"k{i}" for i in range(ROWS)), "never"]
        for consistency in ("one", "quorum"):
            exists = client.exists(keys, collection="c", consistency=consistency)
            assert exists == [key in model for key in keys]
            records = client.get(keys, collection="c", consistency=consistency)
            assert [(record.key, (record.code, record.attributes)) for record in records] == [
                (key, model[key]) for key in keys if key in model
            ]


def _check_scrolls(
    client: Client, condition: Attributes | None, expected: dict[str, tuple[bytes, Attributes]]
) -> None:
    ordered = sorted(expected, key=lambda key: (record_id(key), key))
    for consistency, page_size in (("one", None), ("quorum", 333)):
        found = client.scroll(
            collection="c", filter=condition, include_codes=True, consistency=consistency, page_size=page_size
        )
        assert [(record.key, (record.code, record.attributes)) for record in found] == [
            (key, expected[key]) for key in ordered
        ]
    pages = list(client.scroll_columns(collection="c", filter=condition, include_codes=True, page_size=700))
    assert [key for page in pages for key in page.keys] == ordered
    assert b"".join(page.codes.tobytes() for page in pages) == b"".join(expected[key][0] for key in ordered)
    assert [found for page in pages for found in page.attributes] == [expected[key][1] for key in ordered]
    bare = list(client.scroll_columns(collection="c", filter=condition, include_attributes=False))
    assert [found for page in bare for found in page.attributes] == [{}] * len(ordered)


def _check_facets(
    client: Client, attribute: str, condition: Attributes | None, expected: dict[str, tuple[bytes, Attributes]]
) -> None:
    counts: Counter[Any] = Counter()
    for _, found in expected.values():
        value = found.get(attribute, [])
        counts.update(value if isinstance(value, list) else [value])
    facets = client.facets(attribute, collection="c", filter=condition, limit=100)
    assert {facet.value: facet.count for facet in facets.facets} == dict(counts)
