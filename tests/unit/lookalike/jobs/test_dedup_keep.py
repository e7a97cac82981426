"""Which record of a group is kept, and which are copies byte by byte."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from lookalike.jobs.dedup.facts import FileFacts, FileFactsBuilder
from lookalike.jobs.dedup.groups import Group
from lookalike.jobs.dedup.keep import counts, exact_groups, members


def source(width: int, height: int, size: int, content: str = "") -> dict[str, Any]:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"width": width, "height": height, "bytes": size, "sha256": digest, "phash": "8" + "0" * 15}


def facts_of(*records: tuple[int, dict[str, Any]]) -> FileFacts:
    """The facts of (version, source)."""
    parts = FileFactsBuilder(), FileFactsBuilder()
    for place, (version, described) in enumerate(records):
        parts[place >= 1].add(version, json.dumps({"label": "x", "source": described}))
    parts[0].extend(parts[1])
    return parts[0].build()


def group_of(*keys: str) -> Group:
    return Group(keys, tuple(range(len(keys))), tuple(range(len(keys))))


SMALL, LARGE = source(10, 10, 900), source(10, 20, 100)


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        ([(1, SMALL), (9, LARGE)], "b"),  # pixels before bytes and age
        ([(1, source(10, 20, 99)), (9, LARGE)], "b"),  # bytes before age
        ([(9, LARGE), (1, LARGE)], "b"),  # the oldest
        ([(5, LARGE), (5, LARGE)], "a"),  # the first key
        ([(1, {}), (9, SMALL)], "b"),  # facts before none
        ([(9, {}), (1, {})], "b"),
        ([(1, source(100, 2, 1)), (2, LARGE)], "b"),  # equal pixels
    ],
)
def test_the_best_record_is_kept(records: list[tuple[int, dict[str, Any]]], kept: str) -> None:
    found = members(group_of("a", "b"), facts_of(*records))
    assert [member.key for member in found if member.is_kept] == [kept]


def test_exact_duplicates_have_the_bytes_of_the_kept_record() -> None:
    facts = facts_of(
        (1, source(9, 9, 5, "same")), (2, source(9, 9, 5, "same")), (3, source(9, 9, 5, "other")), (4, {})
    )
    found = members(group_of("a", "b", "c", "d"), facts)
    assert [(member.is_kept, member.is_exact) for member in found] == [
        (True, False), (False, True), (False, False), (False, False),
    ]  # fmt: skip
    assert counts([found, found]) == (2, 4)
    assert (found[0].width, found[0].height, found[0].bytes, found[1].distance) == (9, 9, 5, 1)


def test_records_without_facts_are_never_exact() -> None:
    found = members(group_of("a", "b"), facts_of((1, {}), (2, {})))
    assert counts([found]) == (0, 1)
    assert exact_groups([group_of("a", "b")], facts_of((1, {}), (2, {}))) == []


def test_groups_are_split_by_bytes() -> None:
    contents = ["x", "y", "x", "z", "y"]
    facts = facts_of(*((row, source(5, 5, 5, content)) for row, content in enumerate(contents)))
    split = exact_groups([group_of(*"abcde")], facts)
    assert [group.keys for group in split] == [("a", "c"), ("b", "e")]
    assert [group.rows for group in split] == [(0, 2), (1, 4)]


@pytest.mark.parametrize(
    "described",
    [
        "text", None, [], {"sha256": "zz" * 32}, {"sha256": 5, "width": -1, "height": True, "bytes": 2**64},
        {"sha256": "00" * 32, "width": "9", "height": 2**32, "phash": "é" * 16},
    ],
)  # fmt: skip
def test_attributes_that_a_user_wrote_are_no_facts(described: Any) -> None:
    builder = FileFactsBuilder()
    builder.add(7, json.dumps({"sha256": "", "source": described}))
    facts = builder.build()
    columns = (facts.widths, facts.heights, facts.sizes, facts.phashes)
    assert (facts.versions.tolist(), facts.digest(0)) == ([7], b"")
    assert not any(column.any() for column in columns)


def test_a_perceptual_hash_is_read_with_the_first_bit_highest() -> None:
    facts = facts_of((1, SMALL))
    assert facts.phashes.tolist() == [2**63]
    assert facts.phashes.dtype == np.uint64
