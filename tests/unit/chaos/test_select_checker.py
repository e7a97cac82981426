"""The checker of counts, facets, scrolls and existence: it accepts every permitted answer and finds every kind of
violation."""

from __future__ import annotations

import dataclasses

import pytest

from lookalike.model.records import record_id
from tests.chaos.checker import Finding, Kind, SeenRecord, Span, check_scores
from tests.chaos.history import Attributes, History, Write
from tests.chaos.select_checker import (
    Selection,
    check_count,
    check_exists,
    check_facets,
    check_scroll,
)

KEYS = ("a-0", "a-1", "a-2", "b-0", "b-1")
LATER, DURING = Span(100.0, 101.0), Span(20.5, 20.6)


def _history() -> History:
    """a-0 and b-0 are in group 1, a-1 in group 2, a-2 was deleted, b-1 never written. From 20 to 21 a-1 is written
    again, in group 1."""
    history = History(KEYS)
    for key, group in (("a-0", 1), ("a-1", 2), ("a-2", 1), ("b-0", 1)):
        _write(history, key, 7, group, 1.0, 2.0)
    _write(history, "a-2", None, 0, 3.0, 4.0)
    _write(history, "a-1", 8, 1, 20.0, 21.0)
    return history


def _write(history: History, key: str, code: int | None, group: int, invoked: float, acknowledged: float) -> None:
    attributes = None if code is None else Attributes(history.last(key).sequence + 1, group, None)
    write = history.begin(key, code, invoked, attributes=attributes, thumbnail=b"t")
    write.acknowledged = acknowledged


def _seen(write: Write) -> SeenRecord:
    return SeenRecord(write.key, write.sequence, write.code, write.attributes, write.thumbnail)


def _scroll(history: History, *writes: Write, selection: Selection, span: Span) -> list[Kind]:
    seen = sorted((_seen(write) for write in writes), key=lambda record: (record_id(record.key), record.key))
    return _kinds(check_scroll(history, selection, seen, span))


def _kinds(findings: list[Finding]) -> list[Kind]:
    return [finding.kind for finding in findings]


@pytest.mark.parametrize(
    ("selection", "span", "permitted"),
    [
        (Selection(), LATER, {3}),
        (Selection("a-"), LATER, {2}),
        (Selection("a-", 1), LATER, {2}),
        (Selection("a-", 2), LATER, {0}),
        (Selection("a-", 1), DURING, {1, 2}),
        (Selection("a-", 2), DURING, {0, 1}),
        (Selection("", 1), DURING, {2, 3}),
    ],
)
def test_a_count_is_between_what_certainly_and_what_possibly_matches(
    selection: Selection, span: Span, permitted: set[int]
) -> None:
    history = _history()
    for count in range(5):
        expected = [] if count in permitted else [Kind.FALSE_COMPLETE]
        assert _kinds(check_count(history, selection, count, True, span)) == expected
        may_be_partial = [] if count <= max(permitted) else [Kind.FALSE_COMPLETE]
        assert _kinds(check_count(history, selection, count, False, span)) == may_be_partial


def test_facets_are_counts_of_the_groups() -> None:
    history = _history()
    for counts, expected in (
        ({1: 3}, []),
        ({1: 2}, [Kind.FALSE_COMPLETE]),
        ({1: 3, 2: 1}, [Kind.FALSE_COMPLETE]),
        ({1: 3, 9: 1}, [Kind.CORRUPTED]),
    ):
        assert _kinds(check_facets(history, Selection(), counts, range(3), True, LATER)) == expected


def test_existence_is_checked_both_ways() -> None:
    history = _history()
    right = [True, True, False, True, False]
    assert check_exists(history, KEYS, right, LATER) == []
    assert _kinds(check_exists(history, KEYS, [False, *right[1:]], LATER)) == [Kind.LOST]
    assert _kinds(check_exists(history, KEYS, [True, True, True, True, False], LATER)) == [Kind.RESURRECTED]
    deleting = Span(3.5, 3.6)
    assert check_exists(history, ["a-2", "a-2"], [True, False], deleting) == []


def test_a_scroll_returns_what_matched_throughout_once_and_in_order() -> None:
    history = _history()
    old, new = history.find("a-1", 1), history.last("a-1")
    first, other = history.last("a-0"), history.last("b-0")
    assert old is not None
    everything = Selection()
    assert _scroll(history, first, new, other, selection=everything, span=LATER) == []
    assert _scroll(history, first, old, other, selection=everything, span=DURING) == []
    assert _scroll(history, first, old, other, selection=everything, span=LATER) == [Kind.STALE]
    assert _scroll(history, first, new, selection=everything, span=LATER) == [Kind.LOST]
    twice = _scroll(history, first, new, other, other, selection=everything, span=LATER)
    assert twice == [Kind.DUPLICATED]
    # In group 1, a-1 may be missing while it is written, and must not show its old state.
    in_group = Selection("", 1)
    assert _scroll(history, first, other, selection=in_group, span=DURING) == []
    assert _scroll(history, first, other, old, selection=in_group, span=DURING) == [Kind.FALSE_COMPLETE]
    assert _scroll(history, first, other, selection=in_group, span=LATER) == [Kind.LOST]
    reverse = sorted((_seen(write) for write in (first, new, other)), key=lambda one: -record_id(one.key))
    assert set(_kinds(check_scroll(history, everything, reverse, LATER))) == {Kind.FALSE_COMPLETE}


@pytest.mark.parametrize(
    "change",
    [
        {"code": 9},
        {"thumbnail": b""},
        {"attributes": Attributes(1, 1, 5)},
        {"attributes": Attributes(1, 2, None)},
        {"attributes": Attributes(2, 1, None)},
        {"attributes": None},
    ],
)
def test_a_record_that_was_never_written_so_is_corrupted(change: dict[str, object]) -> None:
    history = _history()
    right = [_seen(history.last(key)) for key in ("a-0", "a-1", "b-0")]
    right.sort(key=lambda record: record_id(record.key))
    assert check_scroll(history, Selection(), right, LATER) == []
    wrong = [dataclasses.replace(record, **change) if record.key == "a-0" else record for record in right]
    assert _kinds(check_scroll(history, Selection(), wrong, LATER)) == [Kind.CORRUPTED]
    # What was not requested is not compared.
    bare = [dataclasses.replace(record, code=None, thumbnail=None) for record in right]
    assert check_scroll(history, Selection(), bare, LATER) == []


def test_scores_must_be_those_of_the_features_of_the_write() -> None:
    history = _history()

    def check(key: str, sequence: int, score: float, span: Span = LATER) -> list[Kind]:
        return _kinds(check_scores(history, [(key, sequence, score)], lambda code: code / 10, span))

    assert check("a-0", 1, 0.71) == []
    assert check("a-0", 1, 0.75) == [Kind.CORRUPTED]
    assert check("a-1", 1, 0.7) == [Kind.STALE]
    assert check("a-1", 1, 0.7, DURING) == []
    assert check("a-0", 9, 0.7) == [Kind.CORRUPTED]
    assert check("nobody", 1, 0.7) == [Kind.CORRUPTED]
