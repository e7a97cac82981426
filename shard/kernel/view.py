"""Owns the state of a matrix after one change: its chunks, the rows of each, and the epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from shard.kernel.chunk import Chunk, Numbers, Selection
from shard.kernel.simd import LANES


class ScanStopped(Exception):
    """The caller's `should_stop` returned True before the scan finished."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class View:
    """The matrix as it was after one append or deletion.

    Attributes:
        chunks: The chunks, in the order of their rows' numbers.
        rows: How many rows of each chunk belong to the view; they are its first rows.
        epoch: The number of the change. A row that a later epoch deleted is live in the view.
        live: The number of live rows.
        end: One more than the highest row number.
        table: uint64 (chunks, 8): the chunks, as `shard.kernel.scan.scan_spans` reads them.
        spans: int64 (chunks, 3): the spans of all rows, for `scan_spans`.
        blocks: The number of blocks in use, over all chunks.
    """

    chunks: tuple[Chunk, ...]
    rows: tuple[int, ...]
    epoch: int
    live: int
    end: int
    table: npt.NDArray[np.uint64]
    spans: npt.NDArray[np.int64]
    blocks: int

    @classmethod
    def of(cls, chunks: Sequence[Chunk], epoch: int, live: int, end: int) -> View:
        """Returns the view of these chunks in their present state."""
        table = [chunk.entry for chunk in chunks]
        spans = [(position, 0, -(-chunk.rows // LANES)) for position, chunk in enumerate(chunks)]
        return cls(
            tuple(chunks), tuple(chunk.rows for chunk in chunks), epoch, live, end,
            np.array(table, np.uint64).reshape(-1, 8), np.array(spans, np.int64).reshape(-1, 3),
            sum(blocks for _, _, blocks in spans),
        )  # fmt: skip


def group_by_chunk(chunks: tuple[Chunk, ...], numbers: Numbers) -> list[tuple[int, Numbers]]:
    """Splits sorted row numbers, uint32 (n,), by the position of the chunk that may contain them."""
    firsts = np.array([chunk.numbers[0] for chunk in chunks], np.uint32)
    positions = np.searchsorted(firsts, numbers, side="right") - 1
    return [(int(p), numbers[positions == p]) for p in np.unique(positions) if p >= 0]


def live_rows(view: View) -> tuple[npt.NDArray[np.uint64], Numbers]:
    """Returns the ids, uint64 (n,), and numbers, uint32 (n,), of the live rows of a view."""
    ids, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
    for chunk, rows in zip(view.chunks, view.rows, strict=True):
        died = chunk.died[:rows]
        alive = (died == 0) | (died > view.epoch)
        ids.append(chunk.ids[:rows][alive])
        numbers.append(chunk.numbers[:rows][alive])
    return np.concatenate(ids), np.concatenate(numbers)


def selected_rows(
    view: View, selection: Selection | None, first_id: int = 0
) -> tuple[npt.NDArray[np.uint64], Numbers]:
    """Returns the ids, uint64 (n,), and numbers, uint32 (n,), of the live rows that a selection selects (None:
    all) and whose ids are `first_id` or above."""
    ids, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
    for chunk, candidates, is_live in _selected(view, selection):
        places = np.flatnonzero(is_live) if candidates is None else candidates[is_live]
        found = chunk.ids[places]
        if first_id:
            is_later = found >= np.uint64(first_id)
            places, found = places[is_later], found[is_later]
        ids.append(found)
        numbers.append(chunk.numbers[places])
    return np.concatenate(ids), np.concatenate(numbers)


def count_selected(view: View, selection: Selection | None) -> int:
    """Returns the number of live rows that a selection selects (None: all)."""
    if selection is None:
        return view.live
    return sum(int(np.count_nonzero(is_live)) for _, _, is_live in _selected(view, selection))


def _selected(
    view: View, selection: Selection | None
) -> Iterator[tuple[Chunk, npt.NDArray[np.int32] | None, npt.NDArray[np.bool_]]]:
    """Yields each chunk with candidates among its first rows, in increasing order (None: all), and a mask of the
    candidates that are selected and live."""
    for chunk, rows in zip(view.chunks, view.rows, strict=True):
        chosen = None if selection is None else selection.rows(chunk, rows)
        if chosen is not None and len(chosen.picked):
            picked = chosen.picked[: np.searchsorted(chosen.picked, rows)]
            died = chunk.died[picked]
            yield chunk, picked, (died == 0) | (died > view.epoch)
            continue
        died = chunk.died[:rows]
        mask = (died == 0) | (died > view.epoch)
        if chosen is not None:
            mask &= np.unpackbits(chosen.bits.view(np.uint8), count=rows, bitorder="little").view(np.bool_)
        yield chunk, None, mask


def rows_with_ids(view: View, ids: npt.NDArray[np.uint64]) -> Numbers:
    """Returns the numbers of the live rows with these ids, uint32 (n,), in ascending order."""
    found, numbers = live_rows(view)
    return numbers[np.isin(found, ids)]


def masks(view: View, selection: Selection | None) -> Iterator[tuple[Chunk, npt.NDArray[np.bool_]]]:
    """Yields each chunk with a mask of its first rows: those that are selected (None: all) and live."""
    for (chunk, candidates, is_live), rows in zip(_selected(view, selection), view.rows, strict=True):
        mask = is_live
        if candidates is not None:
            mask = np.zeros(rows, np.bool_)
            mask[candidates[is_live]] = True
        yield chunk, mask


def mask_by_id(
    view: View, first: int, choose: Callable[[npt.NDArray[np.uint64]], npt.NDArray[np.bool_]]
) -> npt.NDArray[np.bool_]:
    """Returns a mask over the row numbers from `first` to the view's last, bool (view.end - first,).

    Args:
        view: The rows.
        first: The first row number of the mask.
        choose: Maps the ids of rows, uint64 (n,), to their values in the mask, bool (n,).
    """
    mask = np.zeros(view.end - first, np.bool_)
    for chunk, rows in zip(view.chunks, view.rows, strict=True):
        start = int(np.searchsorted(chunk.numbers[:rows], first))
        mask[chunk.numbers[start:rows].astype(np.int64) - first] = choose(chunk.ids[start:rows])
    return mask
