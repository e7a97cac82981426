"""Owns a state of a matrix: which chunks, how many rows of each, and as of which change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shard.kernel.chunk import Chunk, Numbers


class ScanStopped(Exception):
    """The caller asked to stop before the scan was done."""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The matrix as it was after one append or deletion. No row has a number of `end` or above."""

    chunks: tuple[Chunk, ...]
    rows: tuple[int, ...]
    epoch: int
    live: int
    end: int


def group_by_chunk(chunks: tuple[Chunk, ...], numbers: Numbers) -> list[tuple[int, Numbers]]:
    """Split sorted numbers by the position of the chunk that may hold them."""
    firsts = np.array([chunk.numbers[0] for chunk in chunks], np.uint32)
    positions = np.searchsorted(firsts, numbers, side="right") - 1
    return [(int(p), numbers[positions == p]) for p in np.unique(positions) if p >= 0]


def live_rows(view: View) -> tuple[npt.NDArray[np.uint64], Numbers]:
    """Ids and numbers of the rows that live in a view."""
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
    """For the row numbers first..view.end a mask: True for the rows whose ids are chosen."""
    mask = np.zeros(view.end - first, np.bool_)
    for chunk, rows in zip(view.chunks, view.rows, strict=True):
        start = int(np.searchsorted(chunk.numbers[:rows], first))
        mask[chunk.numbers[start:rows].astype(np.int64) - first] = choose(chunk.ids[start:rows])
    return mask
