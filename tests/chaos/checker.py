"""Owns the check of answers against the history: which results of a read or a search are permitted, and what is
wrong with the others. Pure functions, independent of any cluster.

A search is compared with a brute-force scan in which each key is in one of the states that it may have had while
the search ran. A key with one possible state must be ranked exactly; one with several may be in any of them.

A write that timed out may have been applied, and its writer repeats it until it is acknowledged. If the first
attempt takes effect only after later writes were acknowledged, that is also a violation, because a write is lost;
it is marked as late, so that it can be counted separately."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Sequence

from lookalike.model.records import record_id
from tests.chaos.history import Attributes, History, Write

Rank = tuple[int, int, str]
# Features are stored with eight bits each.
_SCORE_TOLERANCE = 0.02


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
    """A violation in an answer, or (STALE_WITHIN_BOUND) an event to count.

    Attributes:
        kind: The kind of violation.
        key: The key concerned, or "".
        text: Details.
        is_late: Whether an attempt that timed out and took effect late would explain it.
    """

    kind: Kind
    key: str
    text: str
    is_late: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """The time of a read on one monotonic clock, and the staleness bound that its answer states, in seconds."""

    began: float
    ended: float
    stale_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class SeenHit:
    """A hit as returned, and the sequence number of the write that it shows."""

    key: str
    sequence: int
    distance: int


@dataclasses.dataclass(frozen=True, slots=True)
class SeenRecord:
    """A record as returned, and the sequence number of the write that it shows.

    Attributes:
        attributes: Its other attributes; None if they are malformed, or not checked.
        thumbnail: Its thumbnail; None if it was not requested.
    """

    key: str
    sequence: int
    code: int | None
    attributes: Attributes | None = None
    thumbnail: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """The parameters of a search. Its filter selects the keys that begin with `prefix`."""

    query: int
    k: int
    max_distance: int | None = None
    prefix: str = ""


def distance(code: int, query: int) -> int:
    return (code ^ query).bit_count()


def rank(key: str, code: int, query: int) -> Rank:
    """Returns the sort key of a record among the hits: distance, then id, then key."""
    return distance(code, query), record_id(key), key


def check_get(history: History, requested: Sequence[str], seen: Sequence[SeenRecord], span: Span) -> list[Finding]:
    """Checks the records that a read of the keys `requested` returned."""
    findings = check_records(history, seen, span)
    found = {record.key for record in seen}
    for key in found - set(requested):
        findings.append(Finding(Kind.CORRUPTED, key, "not requested"))
    for key in dict.fromkeys(requested):
        if key not in found:
            findings.extend(check_absence(history, key, span, lambda write: write.is_delete, Kind.LOST))
    return findings


def check_records(history: History, seen: Sequence[SeenRecord], span: Span) -> list[Finding]:
    """Checks that each record of an answer was written, may be seen, and is there once."""
    findings = []
    found: set[str] = set()
    for record in seen:
        if record.key in found:
            findings.append(Finding(Kind.DUPLICATED, record.key, "returned twice in one answer"))
        found.add(record.key)
        if record.key not in history or not _is_content(history, record):
            write = history.find(record.key, record.sequence) if record.key in history else None
            findings.append(Finding(Kind.CORRUPTED, record.key, f"never written: {record}, but {write}"))
        else:
            findings.extend(check_presence(history, record.key, record.sequence, span))
    return findings


def check_search(
    history: History, search: Search, hits: Sequence[SeenHit], claims_complete: bool, span: Span
) -> list[Finding]:
    """Checks the hits of a search.

    Args:
        history: All writes.
        search: The parameters of the search.
        hits: The hits, in the order returned.
        claims_complete: Whether the answer states that nothing is missing.
        span: When the search ran.
    """
    findings = [*_check_hits(history, search, hits, span), *_check_order(hits)]
    if len(hits) > search.k:
        findings.append(Finding(Kind.CORRUPTED, "", f"{len(hits)} hits, but k is {search.k}"))
    if claims_complete:
        findings.extend(_check_missing(history, search, hits, span))
    return findings


def _check_hits(history: History, search: Search, hits: Sequence[SeenHit], span: Span) -> list[Finding]:
    findings = []
    for hit in hits:
        write = history.find(hit.key, hit.sequence) if hit.key in history else None
        if write is None or write.code is None:
            findings.append(Finding(Kind.CORRUPTED, hit.key, f"never written: {hit}"))
        elif hit.distance != distance(write.code, search.query):
            findings.append(Finding(Kind.CORRUPTED, hit.key, f"{hit} has the wrong distance for {write}"))
        elif not hit.key.startswith(search.prefix) or (
            search.max_distance is not None and hit.distance > search.max_distance
        ):
            findings.append(Finding(Kind.FALSE_COMPLETE, hit.key, f"{hit} does not match the filter or range"))
        else:
            findings.extend(check_presence(history, hit.key, hit.sequence, span))
    return findings


def check_scores(
    history: History, scores: Sequence[tuple[str, int, float]], cosine: Callable[[int], float], span: Span
) -> list[Finding]:
    """Checks hits that are ranked by features: the score of each must be that of the features of its write.

    Args:
        history: All writes.
        scores: The key, the sequence number and the score of each hit.
        cosine: Returns the score of a code's features.
        span: When the search ran.
    """
    findings = []
    for key, sequence, score in scores:
        write = history.find(key, sequence) if key in history else None
        if write is None or write.code is None:
            findings.append(Finding(Kind.CORRUPTED, key, f"never written: #{sequence}"))
        elif abs(score - cosine(write.code)) > _SCORE_TOLERANCE:
            text = f"score {score:.4f}, the features of {write} have {cosine(write.code):.4f}"
            findings.append(Finding(Kind.CORRUPTED, key, text))
        else:
            findings.extend(check_presence(history, key, sequence, span))
    return findings


def _check_order(hits: Sequence[SeenHit]) -> list[Finding]:
    findings = []
    keys: set[str] = set()
    for hit in hits:
        if hit.key in keys:
            findings.append(Finding(Kind.DUPLICATED, hit.key, "returned twice in one answer"))
        keys.add(hit.key)
    ranks = [(hit.distance, record_id(hit.key), hit.key) for hit in hits]
    for first, second in itertools.pairwise(ranks):
        if first > second:
            findings.append(Finding(Kind.FALSE_COMPLETE, second[2], f"wrong order: {second} after {first}"))
    return findings


def _check_missing(history: History, search: Search, hits: Sequence[SeenHit], span: Span) -> list[Finding]:
    """Finds keys that are missing although every state that they may have had belongs among the hits."""
    shown = {hit.key for hit in hits}
    last: Rank | None = None
    if len(hits) >= search.k:
        last = max((hit.distance, record_id(hit.key), hit.key) for hit in hits)

    def may_be_missing(write: Write) -> bool:
        if write.code is None:
            return True
        own = rank(write.key, write.code, search.query)
        is_too_far = search.max_distance is not None and own[0] > search.max_distance
        return is_too_far or (last is not None and own > last)

    findings = []
    for key in history.keys:
        if key.startswith(search.prefix) and key not in shown:
            findings.extend(check_absence(history, key, span, may_be_missing, Kind.FALSE_COMPLETE))
    return findings


def check_absence(
    history: History, key: str, span: Span, explains: Callable[[Write], bool], kind: Kind
) -> list[Finding]:
    """Checks that a key may be absent from an answer. `explains` returns whether it is absent after a write."""
    permitted = history.permitted(key, span.began, span.ended)
    if any(explains(write) for write in permitted):
        return []
    if any(explains(write) for write in history.permitted(key, span.began - span.stale_seconds, span.ended)):
        return [Finding(Kind.STALE_WITHIN_BOUND, key, "absent")]
    late = any(explains(write) for write in history.doubtful_before(key, permitted[-1].sequence))
    return [Finding(kind, key, f"absent, permitted: {_listed(permitted)}", late)]


def check_presence(history: History, key: str, sequence: int, span: Span) -> list[Finding]:
    """Checks that a read may show this write of a key."""
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
    if write is None or write.is_delete or record.code not in (None, write.code):
        return False
    if record.thumbnail is not None and record.thumbnail != write.thumbnail:
        return False
    return write.attributes is None or write.attributes == record.attributes


def _listed(writes: Sequence[Write]) -> str:
    return "; ".join(str(write) for write in writes)
