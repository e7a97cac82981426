"""Owns the digests by which replicas compare what they hold: one number per slot, the sum of a hash of each row.

A sum, so that a row's coming or going changes it without a look at the others, in any order. What a version stands
for never changes, so id, version and whether it is a tombstone say all. Arithmetic is modulo 2**64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookalike.model.records import SLOTS

SLOT_SHIFT = np.uint64(54)


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows as replicas tell each other of them. ids, versions: uint64 (n,); deleted: bool (n,)."""

    ids: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    deleted: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, bool]]) -> Rows:
        """rows: id, version and whether it is a tombstone."""
        ids, versions, deleted = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(np.array(ids, np.uint64), np.array(versions, np.uint64), np.array(deleted, np.bool_))

    @property
    def slots(self) -> npt.NDArray[np.intp]:
        return (self.ids >> SLOT_SHIFT).astype(np.intp)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """A number for each row that no other row is likely to have."""
        return _mixed(self.ids ^ _mixed(self.versions * np.uint64(2) + self.deleted))


@dataclasses.dataclass(frozen=True, slots=True)
class SlotSums:
    """Of each slot: digest uint64, rows that live and all rows, tombstones included, int64. Never changed in
    place."""

    digests: npt.NDArray[np.uint64]
    live: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @classmethod
    def empty(cls) -> SlotSums:
        return cls(np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64))

    def changed(self, gone: Rows, come: Rows) -> SlotSums:
        digests, live, rows = self.digests.copy(), self.live.copy(), self.rows.copy()
        for part, add in ((gone, np.subtract), (come, np.add)):
            slots = part.slots
            add.at(digests, slots, part.hashes)
            add.at(live, slots, (~part.deleted).astype(np.int64))
            add.at(rows, slots, 1)
        return SlotSums(digests, live, rows)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of a value decides every bit of
    this."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
