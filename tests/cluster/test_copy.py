"""Copies of collections on a real cluster: exact, resumable, and never over a later write."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lookalike import AsyncClient, Client, Record
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, InvalidRequest, NotFound
from tests.command import lookalike
from tests.conftest import Cluster
from tests.web.rest import Rest

ROWS = 2_500
JPEG = b"\xff\xd8\xff" + b"j" * 300
RNG = np.random.default_rng(3)
VECTORS = RNG.standard_normal((ROWS, 4)).astype(np.float32)


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


@pytest.fixture
def source(client: Client, request: pytest.FixtureRequest) -> str:
    """A collection with features, thumbnails, an index, and attributes that are hard to write."""
    name = f"source-{abs(hash(request.node.name))}"
    client.create_collection(
        name, bits=64, index="mih", index_attributes=["n"], features="float16", feature_width=4
    )
    client.upsert(
        [
            Record(
                f"k/{i}\n\"'é", code=code(i), features=VECTORS[i], thumbnail=JPEG + bytes([i % 250]),
                attributes={"n": i, "big": 2**60 + i, "text": "a\tb", "none": None},
            )
            for i in range(ROWS)
        ],
        collection=name,
    )  # fmt: skip
    client.delete(["k/5\n\"'é"], collection=name)
    return name


def content(client: Client, collection: str, **options: Any) -> dict[str, tuple[Any, ...]]:
    found = client.scroll(
        collection=collection, include_codes=True, include_thumbnails=True, consistency="quorum", **options
    )
    return {record.key: (record.code, record.attributes, record.thumbnail) for record in found}


def test_a_copy_is_exact(client: Client, source: str) -> None:
    target = f"{source}-copy"
    pages = list(client.copy_collection(source, target))
    assert sum(page.copied for page in pages) == sum(page.records for page in pages) == ROWS - 1
    original, copy = client.get_collection(source), client.get_collection(target)
    assert (copy.code_space, copy.indexing, copy.rows) == (original.code_space, original.indexing, ROWS - 1)
    assert content(client, target) == content(client, source)
    for options in ({"rerank": "features", "features": VECTORS[9]}, {"filter": {"n": {"$lt": 700}}}):
        hits = [
            [(hit.key, hit.distance, hit.score) for hit in
             client.search(code=code(9), k=20, collection=name, **options).hits]
            for name in (source, target)
        ]  # fmt: skip
        assert hits[0] == hits[1]
        assert len(hits[0]) == 20


def test_a_copy_resumes_and_keeps_later_writes(client: Client, source: str) -> None:
    target = f"{source}-copy"
    pages = client.copy_collection(source, target)
    first = next(pages)
    pages.close()
    assert 0 < first.copied < ROWS - 1
    with pytest.raises(AlreadyExists, match="resume"):
        list(client.copy_collection(source, target))
    copied = list(content(client, target))
    # Since then, records changed in both collections.
    newer = Record(copied[0], code=code(1 << 40), features=VECTORS[0], attributes={"mine": 1})
    client.upsert([newer], collection=target)
    client.delete([copied[1], copied[3]], collection=target)
    changed = [Record(key, code=code(1 << 41), features=VECTORS[0]) for key in copied[2:4]]
    client.upsert(changed, collection=source)
    resumed = list(client.copy_collection(source, target, resume=True))
    assert sum(page.records for page in resumed) == ROWS - 1
    expected = content(client, source)
    found = content(client, target)
    assert found.pop(copied[0]) == (newer.code, {"mine": 1}, b"")
    # The record that was deleted in the target is not copied again; one that was written later in the source is.
    assert copied[1] not in found
    assert [found[record.key][0] for record in changed] == [record.code for record in changed]
    for key in copied[:2]:
        expected.pop(key)
    assert found == expected
    again = list(client.copy_collection(source, target, resume=True))
    assert sum(page.copied for page in again) == 0


async def test_a_filter_selects_what_is_copied(cluster: Cluster, client: Client, source: str) -> None:
    target = f"{source}-part"
    async with AsyncClient(cluster.address) as other:
        pages = [page async for page in other.copy_collection(source, target, filter={"n": {"$lt": 100}})]
    assert sum(page.copied for page in pages) == 99
    assert content(client, target) == content(client, source, filter={"n": {"$lt": 100}})


def test_collections_that_differ_are_not_copied_to(client: Client, source: str) -> None:
    client.create_collection(f"{source}-wide", bits=128)
    client.create_collection(f"{source}-bare", bits=64)
    for target in ("wide", "bare"):
        with pytest.raises(CodeSpaceMismatch, match="another code space, or stores other features"):
            list(client.copy_collection(source, f"{source}-{target}", resume=True))
    with pytest.raises(InvalidRequest, match="to copy from"):
        list(client.copy_collection(source, source, resume=True))
    with pytest.raises(NotFound):
        list(client.copy_collection("nobody", f"{source}-x"))
    client.create_alias(f"{source}-alias", source)
    with pytest.raises(InvalidRequest, match="to copy from"):
        list(client.copy_collection(source, f"{source}-alias", resume=True))


def test_rest_and_the_command_line_copy(cluster: Cluster, client: Client, source: str) -> None:
    rest = Rest(cluster.config.coordinator.web)
    cursor, copied = "", 0
    while True:
        body = {"target": f"{source}-rest", "limit": 1_000, "cursor": cursor}
        page = rest("POST", f"/v1/collections/{source}/copy", body).json
        copied, cursor = copied + int(page["copied"]), page.get("cursor", "")
        if not cursor:
            break
    assert copied == ROWS - 1
    at = ("--server", cluster.address)
    status, out, said = lookalike("collection", "copy", source, f"{source}-cli", "--json", *at)
    assert status == 0, said
    assert json.loads(out)["copied"] == ROWS - 1
    status, _, said = lookalike("collection", "copy", source, f"{source}-cli", *at)
    assert (status, said.count("\n")) == (1, 1)
    status, out, _ = lookalike("collection", "copy", source, f"{source}-cli", "--resume", *at)
    assert (status, out) == (
        0,
        f"copied 0 of {ROWS - 1:,} records of {source} to {source}-cli; {source}-cli has {ROWS - 1:,} of them"
        " already\n",
    )
