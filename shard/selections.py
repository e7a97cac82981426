"""Owns the selection of rows for a scan, by a filter and by slots.

The row of a row number never changes, so a filter is evaluated only once per row: the row numbers that a recent
filter matches are kept, and the next scan with this filter reads only the rows that were added after the last."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import slots_of
from lookalike.cluster.slots import SlotSet
from lookalike.model.filters import Filter, size_of
from shard.digests import SlotSums
from shard.kernel import ScanStopped, Selection, View, count_selected, mask_by_id
from shard.store import Store

FILTERS_REMEMBERED = 32
FILTER_BYTES_REMEMBERED = 128 * 1024 * 1024
_COUNTS_REMEMBERED = 16
# A filter's values take several times their size as Python objects.
_VALUE_OVERHEAD = 8

# The filter, and the slots as a bitmap; None where there is no such restriction.
_Restriction = tuple[Filter | None, bytes | None]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class State:
    """The code matrix, and the sums over the rows of each slot, as of one commit."""

    view: View
    sums: SlotSums
    # By the identity of an array of slots: the array, and its number of live rows.
    _counted: dict[int, tuple[SlotSet, int]] = dataclasses.field(default_factory=dict)

    def live_rows(self, slots: SlotSet) -> int:
        """The number of live rows in these slots. Remembered, because searches of one state have the same few."""
        known = self._counted.get(id(slots))
        if known is None:
            if len(self._counted) >= _COUNTS_REMEMBERED:
                self._counted.clear()
            known = self._counted[id(slots)] = slots, int(self.sums.live[slots].sum())
        return known[1]


class Selections:
    """The rows that recent filters match. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._recent: collections.OrderedDict[_Restriction, Selection] = collections.OrderedDict()
        # By restriction: the epoch and the end of the view, and the number of rows that were counted in it.
        self._counts: dict[_Restriction, tuple[tuple[int, int], int]] = {}

    def remembered(self) -> dict[_Restriction, Selection]:
        """Returns a snapshot for `complete`. Take the snapshot before you read the state that you pass to
        `complete`."""
        with self._lock:
            return dict(self._recent)

    def compute(
        self, state: State, condition: Filter | None, slots: SlotSet | None, should_stop: Callable[[], bool]
    ) -> Selection | None:
        """Returns the rows of a state that meet the filter and are in the slots; None for all rows. The caller
        must have pinned the state, so that its rows stay in the store.

        Raises:
            ScanStopped: If `should_stop` returned True.
        """
        restriction = restriction_of(state, condition, slots)
        if restriction is None:
            return None
        with self._lock:
            selection = self._recent.get(restriction)
        if selection is None or selection.end > state.view.end:
            # One of a later state lacks rows that were overwritten after this one.
            selection = Selection(np.zeros(0, np.bool_))
        if selection.end < state.view.end:
            within = slots if restriction[1] is not None else None
            selection = selection.extended(self._mask(state.view, selection.end, condition, within, should_stop))
        with self._lock:
            other = self._recent.pop(restriction, selection)
            # Another thread may have extended it further in the meantime.
            self._recent[restriction] = other if other.end > selection.end else selection
            self._evict()
        return selection

    def count(
        self, state: State, condition: Filter | None, slots: SlotSet | None, selection: Selection | None
    ) -> int:
        """Returns the number of live rows of a state that `compute` selected."""
        restriction = restriction_of(state, condition, slots)
        if restriction is None:
            return state.view.live
        moment = (state.view.epoch, state.view.end)
        with self._lock:
            known, count = self._counts.get(restriction, (None, 0))
        if known != moment:
            count = count_selected(state.view, selection)
            with self._lock:
                if len(self._counts) >= FILTERS_REMEMBERED:
                    self._counts.clear()
                self._counts[restriction] = moment, count
        return count

    def _mask(
        self,
        view: View,
        first: int,
        condition: Filter | None,
        slots: SlotSet | None,
        should_stop: Callable[[], bool],
    ) -> npt.NDArray[np.bool_]:
        """Returns a mask for the row numbers from `first` to before `view.end`: True for selected rows."""
        mask: npt.NDArray[np.bool_] | None = np.ones(view.end - first, np.bool_)
        if condition is not None:
            mask = self._store.matching(condition, first, view.end, should_stop)
        if mask is None:
            raise ScanStopped
        if slots is not None:
            mask &= mask_by_id(view, first, lambda ids: slots[slots_of(ids)])
        return mask

    def _evict(self) -> None:
        while len(self._recent) > 1 and (
            len(self._recent) > FILTERS_REMEMBERED
            or sum(map(_memory_bytes, list(self._recent.items()))) > FILTER_BYTES_REMEMBERED
        ):
            self._recent.popitem(last=False)


def _memory_bytes(remembered: tuple[_Restriction, Selection]) -> int:
    (condition, _), selection = remembered
    return selection.memory_bytes + _VALUE_OVERHEAD * size_of(condition)


def complete(
    remembered: dict[_Restriction, Selection], state: State, condition: Filter | None, slots: SlotSet | None
) -> tuple[bool, Selection | None]:
    """Looks up the remembered selection for a scan of this state.

    Returns:
        Whether the selection covers all rows of the state, and the selection, if there is one. (True, None) if
        nothing restricts the scan.
    """
    restriction = restriction_of(state, condition, slots)
    if restriction is None:
        return True, None
    selection = remembered.get(restriction)
    return selection is not None and selection.end >= state.view.end, selection


def restriction_of(state: State, condition: Filter | None, slots: SlotSet | None) -> _Restriction | None:
    """Returns the key of the restriction for a scan of this state; None if nothing restricts the scan. Usually all
    rows are in the slots, so the slots restrict nothing."""
    within = None if slots is None or state.live_rows(slots) == state.view.live else slots.tobytes()
    return None if condition is None and within is None else (condition, within)
