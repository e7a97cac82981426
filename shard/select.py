"""Owns the answers to questions about selected rows of one state: how many there are, which, and how often each
value of an attribute occurs among them. The caller has pinned the state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.select import CountOf, FacetCounter, FacetsOf, ListOf, Selected
from lookalike.model.errors import Corruption
from lookalike.model.matching import comparable, elements
from lookalike.model.records import VersionedRecord, record_id
from shard.kernel import Selection, View, count_selected, selected_rows
from shard.store import Store

# A list ends when its records take about this many bytes.
LIST_BYTES = 8 * 1024 * 1024
_TRUTHS = {"true": True, "false": False}
_SCALARS = frozenset(("text", "integer", "real"))

# A record's place in a list: its id and its key.
_Order = tuple[int, str]


def answer(
    kind: CountOf | ListOf | FacetsOf,
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
        case CountOf():
            return Selected(count=count_selected(view, selection))
        case ListOf():
            records, more = _list(kind, view, selection, store)
            return Selected(records=records, more=more)
        case FacetsOf(attribute):
            return Selected(facets=_facets(attribute, view, selection, store, should_stop).counts)


def _list(
    wanted: ListOf, view: View, selection: Selection | None, store: Store
) -> tuple[list[VersionedRecord], bool]:
    """The next records in the order of (id, key), and whether there are more."""
    first_id = record_id(wanted.after) if wanted.after else 0
    ids, numbers = _next_rows(*selected_rows(view, selection, first_id), first_id, wanted.limit)
    records, read = store.rows(
        numbers.tolist(), LIST_BYTES, include_features=False, include_thumbnails=wanted.include_thumbnails
    )
    # Keys with equal ids are ordered by key, so all of them must be read.
    end = int(np.searchsorted(ids, ids[read - 1], side="right")) if read else 0
    records += store.rows(
        numbers[read:end].tolist(),
        LIST_BYTES,
        include_features=False,
        include_thumbnails=wanted.include_thumbnails,
    )[0]
    if len(records) < end:
        raise Corruption("the store lacks rows that were loaded from it; restore the partition from a backup")
    after: _Order = (first_id, wanted.after)
    ordered = sorted((record_id(record.key), record.key, place) for place, record in enumerate(records))
    later = [records[place] for identifier, key, place in ordered if (identifier, key) > after]
    return later[: wanted.limit], len(later) > wanted.limit or end < len(ids)


def _next_rows(
    ids: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32], first_id: int, limit: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """The rows with the smallest ids, ordered by id: enough for `limit` records after the first id's, and one
    more, with all rows that have the same id as the last."""
    needed = limit + 1 + int(np.count_nonzero(ids == np.uint64(first_id)))
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
