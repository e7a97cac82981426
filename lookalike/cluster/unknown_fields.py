"""Owns what is said about fields of a filter that no record ever had: no condition on such a field holds, and the
answer warns of it, because it is often a typo."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

# The fields that a shard and a warning name.
FIELDS_SHOWN = 20
_SIMILAR = 3


class Part(Protocol):
    """One partition's answer; see `ScanResult`."""

    @property
    def unknown_fields(self) -> Sequence[str]: ...
    @property
    def known_fields(self) -> Sequence[str]: ...


def unknown_of(named: Iterable[str], known: frozenset[str]) -> tuple[list[str], list[str]]:
    """Compares the fields that a filter names with the attributes that records had.

    Args:
        named: The fields, as paths.
        known: The attributes, without those inside others.

    Returns:
        The fields that no record had and, if there are any, at most 20 of the attributes: similar ones first.
    """
    unknown = sorted({field for field in named if field.partition(".")[0] not in known})
    return unknown, _nearest(tuple(unknown), known) if unknown else []


@functools.lru_cache(64)
def _nearest(unknown: Sequence[str], known: frozenset[str]) -> list[str]:
    names = sorted(known)
    similar = [name for field in unknown for name in _similar(field, names)]
    return list(dict.fromkeys([*similar, *names]))[:FIELDS_SHOWN]


def _similar(field: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(field.partition(".")[0], names, _SIMILAR)


def warnings_of(parts: Sequence[Part]) -> list[str]:
    """Returns a sentence for each field that no partition knows. parts: the answers of all partitions."""
    if not parts or not parts[0].unknown_fields:
        return []
    unknown = set.intersection(*(set(part.unknown_fields) for part in parts))
    known = sorted({field for part in parts for field in part.known_fields})
    return [_warning(field, known) for field in sorted(unknown)]


def _warning(field: str, known: Sequence[str]) -> str:
    if similar := _similar(field, known):
        remedy = f"similar fields: {_listed(similar)}"
    else:
        remedy = f"known fields: {_listed(known[:FIELDS_SHOWN]) or 'none'}"
    return f"filter: no record has a field {field[:80]!r}, so no condition on it holds; {remedy}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names)
