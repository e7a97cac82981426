"""Owns a state of a matrix: which chunks, how many rows of each, and as of which change."""

from __future__ import annotations

import dataclasses

import numpy as np

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
