"""Owns what a dump says of itself: a part of a backup, as one store gave it."""

from __future__ import annotations

import dataclasses

from lookalike.cluster.slots import SlotSet


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """How far a dump of some slots reached: up to this number, which it does not include, of that store. A store
    gives every change a number higher than all before, whatever its version."""

    store: str
    number: int
    slots: SlotSet
    partition: int
    replica: int


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """whole: the slots of which all live records follow; of the others, the records and tombstones since an
    earlier mark. rows: live records of all the mark's slots."""

    incarnation: int
    mark: Mark
    whole: SlotSet
    rows: int
