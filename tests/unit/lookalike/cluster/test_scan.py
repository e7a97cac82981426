"""Which queries may share a scan."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from lookalike.cluster.scan import Place, ScanGroup, Scoring
from lookalike.model import filters

OTHERS: dict[str, Any] = {
    "collection": "other",
    "fingerprint": "other",
    "k": 6,
    "max_distance": 3,
    "filter": filters.Equals("label", "cat"),
    "include_attributes": True,
    "features": "int8 1280",
    "scoring": Scoring.ASYMMETRIC,
    "include_versions": True,
    "after": Place(3, "a"),
    "exclude_keys": ("a",),
}


@dataclasses.dataclass(slots=True)
class WiderGroup(ScanGroup):
    """A group with one more option."""

    extra: int = 0


def group(kind: type[ScanGroup] = ScanGroup, **options: Any) -> ScanGroup:
    return kind(**{"collection": "c", "fingerprint": "f", "codes": np.zeros((1, 8), np.uint8), "k": 5, **options})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ScanGroup)])
def test_queries_that_differ_in_an_option_share_no_scan(name: str) -> None:
    if name in ("codes", "inputs"):
        other = group(**{name: np.ones((1, 8), np.uint8)})
        assert other.batch_key == group().batch_key
    else:
        assert group(**{name: OTHERS[name]}).batch_key != group().batch_key


def test_an_option_that_is_added_is_part_of_the_key() -> None:
    assert group(WiderGroup, extra=1).batch_key != group(WiderGroup).batch_key
    assert group(WiderGroup, extra=1).batch_key == group(WiderGroup, extra=1).batch_key


def test_joined_groups_keep_their_queries_in_order() -> None:
    one = group(codes=np.full((2, 8), 1, np.uint8), inputs=np.full((2, 64), 3, np.uint16))
    other = group(codes=np.full((1, 8), 2, np.uint8), inputs=np.full((1, 64), 4, np.uint16))
    joined = one.joined([other])
    assert joined.codes[:, 0].tolist() == [1, 1, 2]
    assert joined.inputs is not None
    assert joined.inputs[:, 0].tolist() == [3, 3, 4]
    assert joined.batch_key == one.batch_key
