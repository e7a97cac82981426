"""Owns the state of a matrix after one change: its chunks, the rows of each, and the epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shard.kernel.chunk import Chunk, Numbers


class ScanStopped(Exception):
    """The caller's `should_stop` returned True before the scan finished."""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The matrix as it was after one append or deletion.

    Attributes:
        chunks: The chunks, in the order of their rows' numbers.
        rows: How many rows of each chunk belong to the view; they are its first rows.
        epoch: The number of the change. A row that a later epoch deleted is live in the view.
        live: The number of live rows.
        end: One more than the highest row number.
    """

    chunks: tuple[Chunk, ...]
    rows: tuple[int, ...]
    epoch: int
    live: int
    end: int


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
