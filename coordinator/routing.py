"""Owns the routing: which partition each slot is requested from, as a pure function of what the shards last
reported.

A routing may be out of date at any time. But a shard answers only for the slots that it serves, and its answer to
a write names any other partition that must store the record too. So a stale routing costs another round trip, but
never makes an answer wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotSet, SlotTable, slots_to_bytes
from lookalike.model.records import SLOTS, record_id, slot_of

Place = tuple[int, int]  # partition, replica


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Slots to request from one partition. data: a bitmap of the slots. slots: the number of slots."""

    partition: int
    data: bytes
    slots: int


@dataclasses.dataclass(frozen=True, slots=True)
class Routing:
    """Which partition each slot is requested from.

    Attributes:
        owners: The partition of each slot, int32 (SLOTS,).
        served: The slots that a live shard serves, as far as is known.
        shares: The slots to request from each partition. Every slot is in one share; unserved slots have separate
            shares.
    """

    owners: npt.NDArray[np.int32]
    served: SlotSet
    shares: tuple[Share, ...]

    @classmethod
    def of(cls, tables: Mapping[Place, SlotTable], live: frozenset[Place], target: Target) -> Routing:
        """Computes the routing.

        A slot is requested from the partition that serves it in the latest generation. While a slot moves and two
        partitions serve it, that is the partition that it moves to. If no live shard serves the slot, it is
        requested from the last partition that did, or, if there was none, from its owner in the target.

        Args:
            tables: The slot tables of all shards that ever answered.
            live: The shards that are live now.
            target: The intended distribution of slots.
        """
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

    def split(self, slots: Sequence[int], indices: Iterable[int]) -> dict[int, list[int]]:
        """Groups items by the partition of their slots.

        Args:
            slots: The slot of every item.
            indices: The items to group.

        Returns:
            For each partition, the indices of its items, in the order of `indices`.
        """
        parts: dict[int, list[int]] = {}
        for i in indices:
            parts.setdefault(int(self.owners[slots[i]]), []).append(i)
        return parts

    def slots_of(self, partition: int) -> SlotSet:
        """Returns the slots that are served and requested from the partition."""
        slots: SlotSet = self.served & (self.owners == partition)
        return slots


def slots_of_keys(keys: Sequence[str]) -> list[int]:
    """Returns the slot of each key."""
    return [slot_of(record_id(key)) for key in keys]
