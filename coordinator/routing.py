"""Owns the routing: which partition each slot is asked of, as a pure function of what the shards said last.

It may be out of date at any time: a shard answers only for the slots that it serves and says where records must be
stored beside it, so a wrong guess costs another round and never an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotSet, SlotTable, slots_to_bytes
from lookalike.model.records import SLOTS, record_id, slot_of

Place = tuple[int, int]  # partition, replica


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Slots that one partition is asked for; `data` a bit for each."""

    partition: int
    data: bytes
    slots: int


@dataclasses.dataclass(frozen=True, slots=True)
class Routing:
    """owners: the partition of each slot. shares: what each partition is asked for; together every slot once,
    those that nobody serves, as far as is known, apart from the others."""

    owners: npt.NDArray[np.int32]
    served: SlotSet
    shares: tuple[Share, ...]

    @classmethod
    def of(cls, tables: Mapping[Place, SlotTable], live: frozenset[Place], target: Target) -> Routing:
        """tables: of the shards that ever answered; live: those that do now. A slot is asked of the partition that
        serves it in the latest generation: of two that serve it, the one that takes it. If no live shard serves
        it, of the one that did; if none ever did, of the one that shall have it."""
        owners = target.owners().astype(np.int32)
        served = np.zeros(SLOTS, np.bool_)
        for is_live in (False, True):
            latest = np.zeros(SLOTS, np.uint32)
            for place, table in sorted(tables.items()):
                if is_live and place not in live:
                    continue
                later = table.serving & (table.generations > latest)
                owners = np.where(later, place[0], owners)
                latest = np.where(later, table.generations, latest)
            served = latest > 0
        shares = []
        for partition in np.unique(owners).tolist():
            for part in (served, ~served):
                slots = (owners == partition) & part
                if slots.any():
                    shares.append(Share(partition, slots_to_bytes(slots), int(slots.sum())))
        return cls(owners, served, tuple(shares))

    def split(self, keys: Sequence[str]) -> dict[int, list[int]]:
        """The indices of the keys that each partition has, in order."""
        parts: dict[int, list[int]] = {}
        for index, key in enumerate(keys):
            parts.setdefault(int(self.owners[slot_of(record_id(key))]), []).append(index)
        return parts

    def slots_of(self, partition: int) -> SlotSet:
        slots: SlotSet = self.served & (self.owners == partition)
        return slots
