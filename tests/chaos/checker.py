"""Owns the judgement of answers: given the history, what a read or a search may say, and what is wrong with one
that says otherwise. Pure: knows no cluster and counts nothing.

A search is held against a brute-force scan in which each key is in one of the states that it may have had while
the search ran. A key with one such state must be exactly where it belongs; one with several may be in any of them.

A write that timed out was perhaps applied, and is repeated by its writer until it is acknowledged. Should the
first attempt take effect only after later writes were acknowledged, that is a violation too, for the user has lost
a write; it is marked as late, for those who count it otherwise."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Sequence

from lookalike.model.records import record_id
from tests.chaos.history import History, Write

Rank = tuple[int, int, str]


class Kind(enum.StrEnum):
    LOST = "lost"
    RESURRECTED = "resurrected"
    DUPLICATED = "duplicated"
    STALE = "stale"
    FALSE_COMPLETE = "false_complete"
    CORRUPTED = "corrupted"
    STALE_WITHIN_BOUND = "stale_within_bound"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with an answer, or (STALE_WITHIN_BOUND) worth counting. is_late: an attempt that timed out
    and took effect late would explain it."""

    kind: Kind
    key: str
    text: str
    is_late: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """When an answer was asked for and there. stale_seconds: how old it says that it may be."""

    began: float
    ended: float
    stale_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class SeenHit:
    """A hit as it was shown, and which write of its key it says that it is of."""

    key: str
    sequence: int
    distance: int


@dataclasses.dataclass(frozen=True, slots=True)
class SeenRecord:
    key: str
    sequence: int
    code: int


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """What was asked: the keys that a filter keeps begin with `prefix`."""

    query: int
    k: int
    max_distance: int | None = None
    prefix: str = ""


def distance(code: int, query: int) -> int:
    return (code ^ query).bit_count()


def rank(key: str, code: int, query: int) -> Rank:
    """Where a record stands among the hits: nearer first, ties by id, then by key."""
    return distance(code, query), record_id(key), key


def judge_get(history: History, asked: Sequence[str], seen: Sequence[SeenRecord], span: Span) -> list[Finding]:
    """What is wrong with the records that a read of these keys brought."""
    findings = []
    found: dict[str, SeenRecord] = {}
    for record in seen:
        if record.key in found:
            findings.append(Finding(Kind.DUPLICATED, record.key, "twice in one answer"))
        found[record.key] = record
    for key in found.keys() - set(asked):
        findings.append(Finding(Kind.CORRUPTED, key, "was not asked for"))
    for key in dict.fromkeys(asked):
        if (seen_now := found.get(key)) is None:
            findings.extend(_judge_absence(history, key, span, lambda write: write.is_delete, Kind.LOST))
        elif not _is_content(history, seen_now):
            findings.append(Finding(Kind.CORRUPTED, key, f"nobody wrote {seen_now}"))
        else:
            findings.extend(_judge_presence(history, key, seen_now.sequence, span))
    return findings


def judge_search(
    history: History, search: Search, hits: Sequence[SeenHit], claims_complete: bool, span: Span
) -> list[Finding]:
    """What is wrong with an answer. claims_complete: it says that nothing is missing from it."""
    findings = [*_judge_hits(history, search, hits, span), *_judge_order(hits)]
    if len(hits) > search.k:
        findings.append(Finding(Kind.CORRUPTED, "", f"{len(hits)} hits where {search.k} were asked for"))
    if claims_complete:
        findings.extend(_judge_missing(history, search, hits, span))
    return findings


def _judge_hits(history: History, search: Search, hits: Sequence[SeenHit], span: Span) -> list[Finding]:
    findings = []
    for hit in hits:
        write = history.find(hit.key, hit.sequence) if hit.key in history else None
        if write is None or write.code is None:
            findings.append(Finding(Kind.CORRUPTED, hit.key, f"nobody wrote {hit}"))
        elif hit.distance != distance(write.code, search.query):
            findings.append(Finding(Kind.CORRUPTED, hit.key, f"{hit} is of {write}, which is not so far away"))
        elif not hit.key.startswith(search.prefix) or (
            search.max_distance is not None and hit.distance > search.max_distance
        ):
            findings.append(Finding(Kind.FALSE_COMPLETE, hit.key, f"{hit} was not asked for"))
        else:
            findings.extend(_judge_presence(history, hit.key, hit.sequence, span))
    return findings


def _judge_order(hits: Sequence[SeenHit]) -> list[Finding]:
    findings = []
    keys: set[str] = set()
    for hit in hits:
        if hit.key in keys:
            findings.append(Finding(Kind.DUPLICATED, hit.key, "twice in one answer"))
        keys.add(hit.key)
    ranks = [(hit.distance, record_id(hit.key), hit.key) for hit in hits]
    for first, second in itertools.pairwise(ranks):
        if first > second:
            findings.append(Finding(Kind.FALSE_COMPLETE, second[2], f"stands behind {first}, is {second}"))
    return findings


def _judge_missing(history: History, search: Search, hits: Sequence[SeenHit], span: Span) -> list[Finding]:
    """Keys that must be among the hits in every state that they may have had, and are not."""
    shown = {hit.key for hit in hits}
    last: Rank | None = None
    if len(hits) >= search.k:
        last = max((hit.distance, record_id(hit.key), hit.key) for hit in hits)

    def may_be_missing(write: Write) -> bool:
        if write.code is None:
            return True
        place = rank(write.key, write.code, search.query)
        is_too_far = search.max_distance is not None and place[0] > search.max_distance
        return is_too_far or (last is not None and place > last)

    findings = []
    for key in history.keys:
        if key.startswith(search.prefix) and key not in shown:
            findings.extend(_judge_absence(history, key, span, may_be_missing, Kind.FALSE_COMPLETE))
    return findings


def _judge_absence(
    history: History, key: str, span: Span, explains: Callable[[Write], bool], kind: Kind
) -> list[Finding]:
    """Whether a key may be absent from an answer. explains: whether it would be, after this write."""
    permitted = history.permitted(key, span.began, span.ended)
    if any(explains(write) for write in permitted):
        return []
    if any(explains(write) for write in history.permitted(key, span.began - span.stale_seconds, span.ended)):
        return [Finding(Kind.STALE_WITHIN_BOUND, key, "absent")]
    late = any(explains(write) for write in history.doubtful_before(key, permitted[-1].sequence))
    return [Finding(kind, key, f"absent, permitted: {_listed(permitted)}", late)]


def _judge_presence(history: History, key: str, sequence: int, span: Span) -> list[Finding]:
    """Whether a read may show this write of a key."""
    permitted = history.permitted(key, span.began, span.ended)
    if any(write.sequence == sequence for write in permitted):
        return []
    seen = history.find(key, sequence)
    within = history.permitted(key, span.began - span.stale_seconds, span.ended)
    if any(write.sequence == sequence for write in within):
        return [Finding(Kind.STALE_WITHIN_BOUND, key, f"{seen}")]
    kind = Kind.RESURRECTED if all(write.is_delete for write in permitted) else Kind.STALE
    late = seen in history.doubtful_before(key, permitted[-1].sequence)
    return [Finding(kind, key, f"seen: {seen}, permitted: {_listed(permitted)}", late)]


def _is_content(history: History, record: SeenRecord) -> bool:
    write = history.find(record.key, record.sequence)
    return write is not None and write.code == record.code


def _listed(writes: Sequence[Write]) -> str:
    return "; ".join(str(write) for write in writes)
