"""Owns the digests by which replicas compare what they hold: one number per slot, the sum of the hashes of its
rows.

A sum can be updated when a row is added or removed, without reading the others and in any order. The content of a
version never changes, so a row's hash covers id, version and whether it is a tombstone. Arithmetic is modulo
2**64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookalike.model.records import SLOTS

SLOT_SHIFT = np.uint64(54)


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows as replicas list them to each other.

    Attributes:
        ids: uint64 (n,).
        versions: uint64 (n,).
        deleted: bool (n,), True for tombstones.
    """

    ids: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    deleted: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, bool]]) -> Rows:
        """Converts tuples of id, version and whether the row is a tombstone."""
        ids, versions, deleted = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(np.array(ids, np.uint64), np.array(versions, np.uint64), np.array(deleted, np.bool_))

    @property
    def slots(self) -> npt.NDArray[np.intp]:
        """intp (n,): the slot of each row."""
        return (self.ids >> SLOT_SHIFT).astype(np.intp)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """uint64 (n,): the hash of each row."""
        return _mixed(self.ids ^ _mixed(self.versions * np.uint64(2) + self.deleted))


@dataclasses.dataclass(frozen=True, slots=True)
class SlotSums:
    """Sums over the rows of each slot. Never changed in place.

    Attributes:
        digests: uint64 (SLOTS,), the sum of the rows' hashes.
        live: int64 (SLOTS,), the number of live rows.
        rows: int64 (SLOTS,), the number of all rows, tombstones included.
    """

    digests: npt.NDArray[np.uint64]
    live: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @classmethod
    def empty(cls) -> SlotSums:
        return cls(np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64))

    def changed(self, removed: Rows, added: Rows) -> SlotSums:
        """Returns the sums after rows were removed and added."""
        digests, live, rows = self.digests.copy(), self.live.copy(), self.rows.copy()
        for part, add in ((removed, np.subtract), (added, np.add)):
            slots = part.slots
            add.at(digests, slots, part.hashes)
            add.at(live, slots, (~part.deleted).astype(np.int64))
            add.at(rows, slots, 1)
        return SlotSums(digests, live, rows)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit affects every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
