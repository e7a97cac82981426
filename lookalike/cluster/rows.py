"""Owns the form in which replicas list rows to each other, and the hashes by which they compare rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# An id's upper ten bits are its slot.
SLOT_SHIFT = np.uint64(54)


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """The ids and versions of rows, tombstones included. ids, versions: uint64 (n,); deleted: bool (n,)."""

    ids: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    deleted: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, bool]]) -> Rows:
        """Builds rows from (id, version, is a tombstone) triples."""
        ids, versions, deleted = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(np.array(ids, np.uint64), np.array(versions, np.uint64), np.array(deleted, np.bool_))

    @classmethod
    def concat(cls, parts: Sequence[Rows]) -> Rows:
        """Puts rows end to end."""
        if not parts:
            return cls.of([])
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))

    @property
    def slots(self) -> npt.NDArray[np.intp]:
        """The slot of each row, intp (n,)."""
        return slots_of(self.ids)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """A hash of each row, uint64 (n,), by which replicas compare what they hold."""
        return _mix(self.ids ^ _mix(self.versions * np.uint64(2) + self.deleted))


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """Rows of some slots, tombstones included, and their row numbers, as of one commit."""

    numbers: npt.NDArray[np.uint32]
    rows: Rows


def slots_of(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Returns the slot of each id."""
    return (ids >> SLOT_SHIFT).astype(np.intp)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit affects every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
