"""Owns the digests by which replicas compare their rows. The digest of a slot is the sum of the hashes of its
rows, modulo 2**64.

When a row is added or removed, the sum is updated without reading the slot's other rows; the order of the updates
does not matter. The content of a version never changes, so a row's hash covers only the id, the version, and
whether the row is a tombstone."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import Rows
from lookalike.model.records import SLOTS


@dataclasses.dataclass(frozen=True, slots=True)
class SlotSums:
    """Sums over the rows of each slot. The arrays are never changed in place.

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
