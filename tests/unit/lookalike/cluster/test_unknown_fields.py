"""What an answer says about fields that no record has."""

from __future__ import annotations

from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import ScanResult
from lookalike.cluster.unknown_fields import FIELDS_SHOWN, unknown_of, warnings_of


def part(unknown: list[str], known: list[str]) -> ScanResult:
    return ScanResult(HitTable(0), 0, unknown, known)


def test_similar_fields_come_first_and_the_list_is_bounded() -> None:
    known = frozenset([*(f"a{n}" for n in range(100)), "zebra.x", "zebra"])
    unknown, shown = unknown_of(["zebr.name", "a7", "zebr.name"], known)
    assert unknown == ["zebr.name"]
    assert shown[0] == "zebra"
    assert len(shown) == FIELDS_SHOWN
    assert unknown_of(["a1", "zebra.any"], known) == ([], [])


def test_a_field_that_one_partition_knows_is_known() -> None:
    assert warnings_of([part(["lable"], ["label"]), part([], [])]) == []
    assert warnings_of([]) == []


def test_warnings_name_the_field_and_what_is_near_it() -> None:
    parts = [part(["lable", "x"], ["label", "n"]), part(["lable"], ["tags"])]
    (text,) = warnings_of(parts)
    assert text == "filter: no record has a field 'lable', so no condition on it holds; similar fields: 'label'"
    (text,) = warnings_of([part(["deleted"], ["n", "tags"])])
    assert text.endswith("known fields: 'n', 'tags'")
    (text,) = warnings_of([part(["deleted"], [])])
    assert text.endswith("known fields: none")
