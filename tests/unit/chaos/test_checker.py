"""The checker of the chaos harness: it finds every kind of violation and accepts every permitted answer."""

from __future__ import annotations

import pytest

from tests.chaos.checker import (
    Finding,
    Kind,
    Search,
    SeenHit,
    SeenRecord,
    Span,
    check_get,
    check_search,
    distance,
    rank,
)
from tests.chaos.history import History

KEYS = ("a-0", "a-1", "b-0", "b-1")
QUERY = 0b1111
# A read long after everything in `_history`, and one during the second write of a-0.
LATER = Span(100.0, 101.0)
DURING = Span(10.5, 10.6)


def _history() -> History:
    """a-0 was written twice, a-1 once, b-0 written and deleted, b-1 never written."""
    history = History(KEYS)
    _write(history, "a-0", 0b0001, 1.0, 2.0)
    _write(history, "a-1", 0b0011, 1.0, 2.0)
    _write(history, "b-0", 0b0111, 1.0, 2.0)
    _write(history, "a-0", 0b1111, 10.0, 11.0)
    _write(history, "b-0", None, 10.0, 11.0)
    return history


def _write(
    history: History,
    key: str,
    code: int | None,
    invoked: float,
    acknowledged: float | None,
    doubtful: bool = False,
) -> None:
    write = history.begin(key, code, invoked)
    write.acknowledged = acknowledged
    write.is_doubtful = doubtful


def _record(history: History, key: str, sequence: int) -> SeenRecord:
    write = history.find(key, sequence)
    assert write is not None
    assert write.code is not None
    return SeenRecord(key, sequence, write.code)


def _hit(history: History, key: str, sequence: int) -> SeenHit:
    return SeenHit(key, sequence, distance(_record(history, key, sequence).code, QUERY))


def _kinds(findings: list[Finding]) -> list[Kind]:
    return [finding.kind for finding in findings]


def _get(history: History, key: str, sequence: int | None, span: Span) -> list[Kind]:
    seen = [] if sequence is None else [_record(history, key, sequence)]
    return _kinds(check_get(history, [key], seen, span))


def _search(history: History, hits: list[SeenHit], span: Span, k: int = 10, complete: bool = True) -> list[Kind]:
    return _kinds(check_search(history, Search(QUERY, k), hits, complete, span))


@pytest.mark.parametrize(
    ("key", "sequence", "span", "expected"),
    [
        ("a-0", 2, LATER, []),
        ("a-0", 1, LATER, [Kind.STALE]),
        ("a-0", None, LATER, [Kind.LOST]),
        ("b-0", None, LATER, []),
        ("b-0", 1, LATER, [Kind.RESURRECTED]),
        ("b-1", None, LATER, []),
        ("a-0", 1, DURING, []),
        ("a-0", 2, DURING, []),
        ("a-0", None, DURING, [Kind.LOST]),
        ("b-0", 1, DURING, []),
        ("b-0", None, DURING, []),
        ("a-0", None, Span(1.0, 1.5), []),
    ],
)
def test_a_get_may_return_any_state_that_was_current_during_it(
    key: str, sequence: int | None, span: Span, expected: list[Kind]
) -> None:
    assert _get(_history(), key, sequence, span) == expected


def test_an_unacknowledged_write_may_be_visible_or_not() -> None:
    history = _history()
    _write(history, "a-1", None, 20.0, None)
    assert _get(history, "a-1", None, LATER) == []
    assert _get(history, "a-1", 1, LATER) == []


def test_a_write_is_not_visible_before_it_began() -> None:
    assert _get(_history(), "a-0", 2, Span(5.0, 6.0)) == [Kind.STALE]


def test_staleness_within_the_stated_bound_is_counted_separately() -> None:
    history = _history()
    bounded = Span(12.0, 12.1, stale_seconds=2.0)
    assert _get(history, "a-0", 1, bounded) == [Kind.STALE_WITHIN_BOUND]
    assert _get(history, "b-0", 1, bounded) == [Kind.STALE_WITHIN_BOUND]
    assert _get(history, "a-0", 1, Span(12.0, 12.1, stale_seconds=0.5)) == [Kind.STALE]


def test_a_late_attempt_is_a_violation_marked_as_late() -> None:
    history = _history()
    _write(history, "a-1", 0b0101, 20.0, 21.0, doubtful=True)
    _write(history, "a-1", 0b0110, 22.0, 23.0)
    findings = check_get(history, ["a-1"], [_record(history, "a-1", 2)], LATER)
    assert [(finding.kind, finding.is_late) for finding in findings] == [(Kind.STALE, True)]
    findings = check_get(history, ["a-1"], [_record(history, "a-1", 1)], LATER)
    assert [(finding.kind, finding.is_late) for finding in findings] == [(Kind.STALE, False)]


def test_content_that_was_never_written_is_corrupted() -> None:
    history = _history()
    assert _kinds(check_get(history, ["a-0"], [SeenRecord("a-0", 2, 0b1110)], LATER)) == [Kind.CORRUPTED]
    assert _kinds(check_get(history, ["a-0"], [SeenRecord("a-0", 7, 0b1111)], LATER)) == [Kind.CORRUPTED]
    records = [_record(history, "a-0", 2), _record(history, "a-1", 1)]
    assert _kinds(check_get(history, ["a-0"], records, LATER)) == [Kind.CORRUPTED]


def test_a_record_returned_twice_is_duplicated() -> None:
    history = _history()
    assert _kinds(check_get(history, ["a-1"], [_record(history, "a-1", 1)] * 2, LATER)) == [Kind.DUPLICATED]


def test_the_correct_answer_is_accepted() -> None:
    history = _history()
    hits = [_hit(history, "a-0", 2), _hit(history, "a-1", 1)]
    assert _search(history, hits, LATER) == []
    assert _search(history, hits[:1], LATER, k=1) == []


def test_a_missing_hit_is_a_violation_only_if_the_answer_claims_completeness() -> None:
    history = _history()
    hits = [_hit(history, "a-0", 2)]
    assert _search(history, hits, LATER) == [Kind.FALSE_COMPLETE]
    assert _search(history, hits, LATER, complete=False) == []


def test_a_farther_record_must_not_replace_a_nearer_one() -> None:
    history = _history()
    assert _search(history, [_hit(history, "a-1", 1)], LATER, k=1) == [Kind.FALSE_COMPLETE]


def test_a_key_may_be_in_either_state_during_a_write() -> None:
    history = _history()
    old = [_hit(history, "b-0", 1), _hit(history, "a-1", 1), _hit(history, "a-0", 1)]
    new = [_hit(history, "a-0", 2), _hit(history, "a-1", 1)]
    mixed = [_hit(history, "a-0", 2), _hit(history, "b-0", 1), _hit(history, "a-1", 1)]
    for hits in (old, new, mixed):
        assert _search(history, hits, DURING) == []


def test_a_key_may_be_missing_during_a_write_if_one_state_is_beyond_k() -> None:
    history = _history()
    hits = [_hit(history, "b-0", 1)]
    assert _search(history, hits, DURING, k=1) == []
    assert _search(history, [_hit(history, "a-0", 1)], DURING, k=1) == [Kind.FALSE_COMPLETE]


def test_hits_out_of_order_are_a_violation() -> None:
    history = _history()
    hits = [_hit(history, "a-1", 1), _hit(history, "a-0", 2)]
    assert _search(history, hits, LATER) == [Kind.FALSE_COMPLETE]


def test_ties_must_be_ordered_by_id() -> None:
    history = History(KEYS)
    for key in KEYS:
        _write(history, key, 0b0101, 1.0, 2.0)
    hits = sorted((_hit(history, key, 1) for key in KEYS), key=lambda hit: rank(hit.key, 0b0101, QUERY))
    assert _search(history, hits, LATER) == []
    assert _search(history, hits[:3], LATER, k=3) == []
    assert Kind.FALSE_COMPLETE in _search(history, [*hits[:2], hits[3]], LATER, k=3)
    assert Kind.FALSE_COMPLETE in _search(history, [hits[1], hits[0], *hits[2:]], LATER)


def test_each_violation_among_hits_gets_its_kind() -> None:
    history = _history()
    first, second = _hit(history, "a-0", 2), _hit(history, "a-1", 1)
    assert _search(history, [first, first, second], LATER) == [Kind.DUPLICATED]
    assert _search(history, [first, _hit(history, "b-0", 1), second], LATER) == [Kind.RESURRECTED]
    assert _search(history, [second, _hit(history, "a-0", 1)], LATER) == [Kind.STALE]
    assert _search(history, [first, SeenHit("a-1", 1, 1)], LATER) == [Kind.CORRUPTED]
    assert _search(history, [first, second, SeenHit("b-1", 1, 3)], LATER) == [Kind.CORRUPTED]
    assert _search(history, [first, second, SeenHit("stranger", 1, 3)], LATER) == [Kind.CORRUPTED]
    assert Kind.CORRUPTED in _search(history, [first, second], LATER, k=1)


def test_hits_must_match_filter_and_range() -> None:
    history = _history()
    hits = [_hit(history, "a-0", 2)]
    near = Search(QUERY, 10, max_distance=1)
    assert check_search(history, near, hits, True, LATER) == []
    beyond = [*hits, _hit(history, "a-1", 1)]
    assert _kinds(check_search(history, near, beyond, True, LATER)) == [Kind.FALSE_COMPLETE]
    others = Search(QUERY, 10, prefix="b-")
    assert check_search(history, others, [], True, LATER) == []
    assert _kinds(check_search(history, others, hits, True, LATER)) == [Kind.FALSE_COMPLETE]


def test_a_hit_may_be_missing_within_the_staleness_bound() -> None:
    history = History(KEYS)
    _write(history, "a-0", QUERY, 1.0, 2.0)
    assert _search(history, [], Span(3.0, 3.1, stale_seconds=1.5)) == [Kind.STALE_WITHIN_BOUND]
    assert _search(history, [], Span(3.0, 3.1, stale_seconds=0.5)) == [Kind.FALSE_COMPLETE]
