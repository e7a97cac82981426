"""Owns the description of a dump: the part of a backup that comes from one store."""

from __future__ import annotations

import dataclasses

from lookalike.cluster.slots import SlotSet


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """How far a dump of some slots reached.

    A store numbers its changes in ascending order, whatever their versions.

    Attributes:
        store: The store that was dumped.
        number: The first number that the dump does not include.
        slots: The slots dumped.
        partition: The partition of the shard that has the store.
        replica: Its replica.
    """

    store: str
    number: int
    slots: SlotSet
    partition: int
    replica: int


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The first message of a dump.

    Attributes:
        incarnation: The incarnation of the collection.
        mark: How far the dump reaches.
        whole: The slots whose live records all follow. For the other slots, the records and tombstones since an
            earlier mark follow.
        rows: The number of live records of all slots of the mark.
    """

    incarnation: int
    mark: Mark
    whole: SlotSet
    rows: int
