"""Owns the check of counts, facets, scrolls and answers about existence against the history. Pure functions,
independent of any cluster."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from lookalike.model.records import record_id
from tests.chaos.checker import (
    Finding,
    Kind,
    SeenRecord,
    Span,
    check_absence,
    check_records,
)
from tests.chaos.history import History, Write


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """A filter: the keys of a writer (`prefix`; all if it is empty), and among them those of a group."""

    prefix: str = ""
    group: int | None = None

    def matches(self, write: Write) -> bool:
        """Returns whether the record, as this write left it, matches."""
        if write.code is None or not write.key.startswith(self.prefix):
            return False
        return self.group is None or (write.attributes is not None and write.attributes.group == self.group)

    def document(self) -> dict[str, object] | None:
        """Returns the filter as the SDK takes it; None for all records."""
        document: dict[str, object] = {}
        if self.prefix:
            document["writer"] = self.prefix.removesuffix("-")
        if self.group is not None:
            document["group"] = self.group
        return document or None


def check_exists(history: History, keys: Sequence[str], exists: Sequence[bool], span: Span) -> list[Finding]:
    """Checks which keys are said to have a record."""
    findings = []
    for key, is_there in zip(keys, exists, strict=True):
        if not is_there:
            findings.extend(check_absence(history, key, span, lambda write: write.is_delete, Kind.LOST))
        elif all(write.is_delete for write in _states(history, key, span)):
            findings.append(Finding(Kind.RESURRECTED, key, f"exists, but not after {history.last(key)}"))
    return findings


def check_scroll(history: History, selection: Selection, seen: Sequence[SeenRecord], span: Span) -> list[Finding]:
    """Checks the records of a whole scroll, in the order returned: each key at most once, in the order of the ids,
    as it was at some time of the scroll; and every record that matched throughout."""
    findings = check_records(history, seen, span)
    for record in seen:
        write = history.find(record.key, record.sequence) if record.key in history else None
        if write is not None and not selection.matches(write):
            findings.append(Finding(Kind.FALSE_COMPLETE, record.key, f"{record} does not match {selection}"))
    places = [(record_id(record.key), record.key) for record in seen]
    for first, second in itertools.pairwise(places):
        if first > second:
            findings.append(Finding(Kind.FALSE_COMPLETE, second[1], f"wrong order: {second} after {first}"))
    shown = {record.key for record in seen}
    for key in history.keys:
        if key.startswith(selection.prefix) and key not in shown:
            findings.extend(check_absence(history, key, span, _does_not_match(selection), Kind.LOST))
    return findings


def _does_not_match(selection: Selection) -> Callable[[Write], bool]:
    return lambda write: not selection.matches(write)


def check_count(
    history: History, selection: Selection, count: int, claims_complete: bool, span: Span
) -> list[Finding]:
    """Checks a count: between the records that certainly matched and those that may have."""
    least, most = _bounds(history, selection, span)
    if count > most or (claims_complete and count < least):
        return [Finding(Kind.FALSE_COMPLETE, "", f"{selection}: count {count}, permitted: {least}..{most}")]
    return []


def check_facets(
    history: History,
    selection: Selection,
    counts: Mapping[int, int],
    groups: Sequence[int],
    claims_complete: bool,
    span: Span,
) -> list[Finding]:
    """Checks the count of each group."""
    findings = []
    for group in groups:
        part = dataclasses.replace(selection, group=group)
        findings += check_count(history, part, counts.get(group, 0), claims_complete, span)
    for group in counts.keys() - set(groups):
        findings.append(Finding(Kind.CORRUPTED, "", f"facet {group!r} was never written"))
    return findings


def _bounds(history: History, selection: Selection, span: Span) -> tuple[int, int]:
    least = most = 0
    for key in history.keys:
        if key.startswith(selection.prefix):
            matching = [selection.matches(write) for write in _states(history, key, span)]
            least += all(matching)
            most += any(matching)
    return least, most


def _states(history: History, key: str, span: Span) -> list[Write]:
    """The writes of a key that a read may see, newest first."""
    return history.permitted(key, span.began - span.stale_seconds, span.ended)
