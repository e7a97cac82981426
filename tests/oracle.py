"""Owns the reference answers: plain NumPy and plain Python, written to be obviously correct rather than fast."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model.filters import And, Equals, Exists, Filter, In, Not, Or, Prefix, Range
from lookalike.model.records import record_id

Codes = npt.NDArray[np.uint8]


def random_codes(rng: np.random.Generator, n: int, bits: int) -> Codes:
    return rng.integers(0, 256, (n, bits // 8), np.uint8)


def nearest(
    codes: Codes, ids: npt.NDArray[np.uint64], query: Codes, k: int, max_distance: int | None = None
) -> list[tuple[int, int]]:
    """The first k (distance, id) within max_distance bits, ordered by both."""
    distances = np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.int64)
    order = np.lexsort((ids, distances))
    found = [(int(distances[row]), int(ids[row])) for row in order]
    return [hit for hit in found if max_distance is None or hit[0] <= max_distance][:k]


def nearest_keys(records: Mapping[str, bytes], query: bytes, k: int) -> list[tuple[int, str]]:
    """The first k (distance, key) over a dict of codes, ordered by (distance, id, key)."""
    keys = list(records)
    if not keys:
        return []
    codes = np.frombuffer(b"".join(records.values()), np.uint8).reshape(len(keys), -1)
    distances = np.bitwise_count(codes ^ np.frombuffer(query, np.uint8)).sum(axis=1, dtype=np.int64)
    ranked = sorted(zip(distances.tolist(), map(record_id, keys), keys, strict=True))
    return [(distance, key) for distance, _, key in ranked[:k]]


def nearest_groups(
    records: Mapping[str, tuple[bytes, Mapping[str, Any]]],
    query: bytes,
    field: str,
    k: int,
    size: int,
    identify: Callable[[str], int] = record_id,
) -> list[tuple[Any, list[tuple[int, str]]]]:
    """The first k groups (value, hits) by an attribute, each with its first `size` (distance, key)."""
    members: dict[tuple[str, Any], list[tuple[int, int, str]]] = {}
    for key, (code, attributes) in records.items():
        distance = (int.from_bytes(code, "big") ^ int.from_bytes(query, "big")).bit_count()
        for value in _elements(attributes, field):
            if isinstance(value, bool | int | float | str):
                kind = "1 number" if _is_number(value) else "0 truth" if isinstance(value, bool) else "2 text"
                members.setdefault((kind, value), []).append((distance, identify(key), key))
    ranked = sorted((*min(hits)[:2], *group) for group, hits in members.items())
    return [
        (value, [(distance, key) for distance, _, key in sorted(set(members[kind, value]))[:size]])
        for _, _, kind, value in ranked[:k]
    ]


def meets(attributes: Mapping[str, Any], condition: Filter, key: str = "") -> bool:
    """Whether a record matches a filter, as docs/FILTERS.md describes it."""
    match condition:
        case And(filters):
            return all(meets(attributes, part, key) for part in filters)
        case Or(filters):
            return any(meets(attributes, part, key) for part in filters)
        case Not(part):
            return not meets(attributes, part, key)
    record = {**attributes, "$key": key}
    match condition:
        case Exists(field):
            return bool(_reach(record, field))
        case Equals(field, value):
            return any(_same(element, value) for element in _elements(record, field))
        case In(field, values):
            return any(_same(element, value) for element in _elements(record, field) for value in values)
        case Prefix(field, text):
            return any(isinstance(one, str) and one[: len(text)] == text for one in _elements(record, field))
        case Range(field):
            return any(_within(element, condition) for element in _elements(record, field))


def _reach(attributes: Any, field: str) -> list[Any]:
    value = attributes
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            return []
        value = value[name]
    return [value]


def _elements(attributes: Mapping[str, Any], field: str) -> Sequence[Any]:
    found = _reach(attributes, field)
    return found[0] if found and isinstance(found[0], list) else found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _compared(number: float) -> float:
    """An integer beyond 64 bits counts as the nearest double."""
    return number if -(2**63) <= number < 2**63 else float(number)


def _same(element: Any, value: Any) -> bool:
    if _is_number(element) and _is_number(value):
        return bool(_compared(element) == value)
    return type(element) is type(value) and bool(element == value) and not isinstance(element, dict | list)


def _within(element: Any, bounds: Range) -> bool:
    pairs = [(_ORDER[name], getattr(bounds, name)) for name in _ORDER if getattr(bounds, name) is not None]
    if isinstance(element, str):
        return all(isinstance(bound, str) and holds(element, bound) for holds, bound in pairs)
    return _is_number(element) and all(
        _is_number(bound) and holds(_compared(element), bound) for holds, bound in pairs
    )


_ORDER = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
