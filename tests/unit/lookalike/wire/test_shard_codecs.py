"""Messages between coordinators and shards decode to what was encoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lookalike import wire
from lookalike.cluster.rows import Listing, Rows
from lookalike.cluster.scan import Place, ScanGroup, ScanResult, Scoring, WriteResult
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import SlotMoved
from lookalike.model.indexing import Indexing
from lookalike.v1 import shard_pb2

SPACE = CodeSpace(64)
INDEXING = Indexing(features="int8", feature_width=4)


@pytest.mark.parametrize(
    ("scoring", "inputs"),
    [
        (Scoring.HAMMING, None),
        (Scoring.ASYMMETRIC, np.arange(128, dtype=np.uint16).reshape(2, 64)),
        (Scoring.RERANK_ASYMMETRIC, np.arange(128, dtype=np.uint16).reshape(2, 64)),
        (Scoring.RERANK_FEATURES, np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)),
    ],
)
def test_scan_group_round_trip(scoring: Scoring, inputs: np.ndarray | None) -> None:
    group = ScanGroup(
        "c", SPACE.fingerprint, np.arange(16, dtype=np.uint8).reshape(2, 8), 5, 9, filters.Equals("label", "cat"),
        True, INDEXING.features_text, scoring, inputs, True, Place(0.5, "k"), ("a", "b"),
    )  # fmt: skip
    defaults = ScanGroup("", "", group.codes, 0)
    for field in dataclasses.fields(ScanGroup):
        if field.name not in ("codes", "scoring", "inputs"):
            assert getattr(group, field.name) != getattr(defaults, field.name), f"{field.name} is not set"
    message = shard_pb2.ScanGroup.FromString(wire.scan_group_to_wire(group).SerializeToString())
    decoded = wire.scan_group_from_wire(message, SPACE, INDEXING)
    assert decoded.batch_key == group.batch_key
    assert np.array_equal(decoded.codes, group.codes)
    assert decoded.inputs is None if inputs is None else np.array_equal(decoded.inputs, inputs)


def test_a_scans_error_keeps_its_class() -> None:
    decoded = wire.scan_result_from_wire(wire.scan_result_to_wire(SlotMoved("moved")))
    assert not isinstance(decoded, ScanResult)
    assert (type(decoded), decoded.message) == (SlotMoved, "moved")


def test_write_result_round_trip() -> None:
    result = WriteResult([True, False, True], {1: 2**62}, 2**63 - 1, {5: 2, 1023: 7}, frozenset({0, 2}))
    message = shard_pb2.WriteResponse.FromString(wire.write_result_to_wire(result).SerializeToString())
    assert wire.write_result_from_wire(message) == result


@pytest.mark.parametrize("rows", [[], [(2**64 - 1, 2**63 - 1, True), (7, 1, False)]])
def test_listing_round_trip(rows: list[tuple[int, int, bool]]) -> None:
    numbers = np.array([2**32 - 1, 3][: len(rows)], np.uint32)
    listing = Listing(numbers, Rows.of(rows))
    message = shard_pb2.ListRowsResponse.FromString(wire.listing_to_wire(listing).SerializeToString())
    decoded = wire.listing_from_wire(message)
    assert decoded.numbers.tolist() == numbers.tolist()
    for field in dataclasses.fields(Rows):
        one, other = getattr(decoded.rows, field.name), getattr(listing.rows, field.name)
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    assert wire.numbers_from_wire(wire.numbers_to_wire(numbers)) == numbers.tolist()
