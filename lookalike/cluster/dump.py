"""Owns the description of a dump: the part of a backup that comes from one store, which is one shard's database of
a collection."""

from __future__ import annotations

import dataclasses

from lookalike.cluster.slots import SlotSet


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """How far a dump of some slots reached.

    A store numbers its changes in ascending order, regardless of the versions of the records.

    Attributes:
        store: The store that was dumped.
        number: The first number that the dump does not include.
        slots: The slots dumped.
        partition: The partition of the shard that has the store.
        replica: The replica of that shard.
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
        incarnation: The collection's incarnation (`Collection.incarnation`).
        mark: How far the dump reaches.
        whole: The slots that are dumped in full: all their live records follow. For the other slots, only the
            records and tombstones that are newer than an earlier mark follow.
        rows: The number of live records in all slots of the mark.
    """

    incarnation: int
    mark: Mark
    whole: SlotSet
    rows: int
