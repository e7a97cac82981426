"""Owns the answers to questions about selected rows of one state: which there are, and how often each value of an
attribute occurs among them. The caller has pinned the state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.listed import Listed, merge
from lookalike.cluster.select import FacetCounter, FacetsOf, ListOf, Selected
from lookalike.model.matching import comparable, elements
from lookalike.model.records import record_id
from shard.kernel import ScanStopped, Selection, View, selected_rows
from shard.store import Store

# A list ends when its records take about this many bytes.
LIST_BYTES = 8 * 1024 * 1024
_SAMPLE = 4_096
# A list reads so many rows at first, and then as many as fit into its bytes.
_FIRST_ROWS = 256
_TRUTHS = {"true": True, "false": False}
_SCALARS = frozenset(("text", "integer", "real"))


def answer(
    kind: ListOf | FacetsOf,
    view: View,
    selection: Selection | None,
    store: Store,
    should_stop: Callable[[], bool],
) -> Selected:
    """Returns the answer, without what does not depend on the question's kind.

    Raises:
        InvalidRequest: If the attribute has too many values.
        ScanStopped: If `should_stop` returned True.
    """
    match kind:
        case ListOf():
            listed, more = _list(kind, view, selection, store, should_stop)
            return Selected(listed=listed, more=more)
        case FacetsOf(attribute):
            return Selected(facets=_facets(attribute, view, selection, store, should_stop).counts)


def _list(
    wanted: ListOf, view: View, selection: Selection | None, store: Store, should_stop: Callable[[], bool]
) -> tuple[Listed, bool]:
    """The next records in the order of (id, key), and whether there are more."""
    first_id = record_id(wanted.after) if wanted.after else 0
    ids, numbers = _next_rows(*selected_rows(view, selection, first_id), first_id, wanted.limit)
    parts, start, size, was_read, rows = list[Listed](), 0, 0, 0, _FIRST_ROWS
    while start < len(ids) and size < LIST_BYTES:
        if should_stop():
            raise ScanStopped
        # Keys with equal ids are ordered by key, so all of them must be read.
        end = int(np.searchsorted(ids, ids[min(start + rows, len(ids)) - 1], side="right"))
        part, part_read = store.listed(
            numbers[start:end], wanted.include_codes, wanted.include_attributes, wanted.include_thumbnails
        )
        parts.append(part)
        size += int(part.sizes.sum())
        was_read += part_read
        start = end
        rows = max(_FIRST_ROWS, min(4 * rows, LIST_BYTES * end // was_read))
    merged = merge(parts, [False] * len(parts), sum(map(len, parts)), sys.maxsize)
    first = _place_after(merged.listed, first_id, wanted.after)
    later = len(merged.listed) - first
    sizes = np.cumsum(merged.listed.sizes[first:])
    kept = min(wanted.limit, later, max(1, int(np.searchsorted(sizes, LIST_BYTES, side="right"))))
    return merged.listed.slice(first, first + kept), kept < later or start < len(ids)


def _place_after(listed: Listed, first_id: int, key: str) -> int:
    """The index of the first record after the key, in a list whose ids are `first_id` or above."""
    if not key:
        return 0
    tied = int(np.searchsorted(listed.ids, np.uint64(first_id), side="right"))
    return sum(other <= key for other in listed.keys.slice(0, tied).strings())


def _next_rows(
    ids: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32], first_id: int, limit: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """The rows with the smallest ids, ordered by id: enough for `limit` records after the first id's, and one
    more, with all rows that have the same id as the last."""
    needed = limit + 1 + int(np.count_nonzero(ids == np.uint64(first_id)))
    # Most rows are beyond what a sample of them suggests, and comparing costs less than a partition of them all.
    sample = ids[:: max(1, len(ids) // _SAMPLE)]
    place = 2 * needed * len(sample) // max(1, len(ids)) + 32
    if place < len(sample):
        is_near = ids <= np.partition(sample, place)[place]
        if np.count_nonzero(is_near) >= needed:
            ids, numbers = ids[is_near], numbers[is_near]
    if len(ids) > needed:
        is_near = ids <= np.partition(ids, needed - 1)[needed - 1]
        ids, numbers = ids[is_near], numbers[is_near]
    order = np.argsort(ids, kind="stable")
    return ids[order], numbers[order]


def _facets(
    attribute: str, view: View, selection: Selection | None, store: Store, should_stop: Callable[[], bool]
) -> FacetCounter:
    is_selected = b""
    if selection is not None:
        mask = np.zeros(view.end, np.bool_)
        mask[selected_rows(view, selection)[1]] = True
        is_selected = mask.tobytes()
    counter = FacetCounter(attribute)
    for number, kind, value in store.values(attribute, should_stop):
        if selection is None or is_selected[number]:
            for scalar in scalars(kind, value):
                counter.add(scalar)
    return counter


def scalars(kind: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values that a filter compares in a field, each once and in one form."""
    if kind in _SCALARS:
        yield _canonical(value)
    elif kind in _TRUTHS:
        yield _canonical(_TRUTHS[kind])
    elif kind == "array":
        values = elements({"": json.loads(value)}, "")
        yield from {_canonical(element) for element in values if element is not None}


def _canonical(value: Any) -> tuple[str, Any]:
    """The form in which filters compare the value, with whole numbers as int: of 1 and 1.0, which are equal, the
    same one is counted on every shard."""
    name, scalar = comparable(value)
    if isinstance(scalar, float) and scalar.is_integer() and -(2**63) <= scalar < 2**63:
        return name, int(scalar)
    return name, scalar
