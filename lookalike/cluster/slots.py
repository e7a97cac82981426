"""Owns the state of each of the 1,024 slots on a shard, and the steps from one state to the next. Pure functions.

A slot's records belong to one partition at a time, or to two while the slot moves. Its generation counts its
moves: the partition that holds it in generation g hands it to another, which holds it in g + 1.

    at the source partition               at the taker
    OWNED                                 NONE
                                          RECEIVING   accepts writes, copies the records
    SHARING  writes go to both            RECEIVING
    SHARING                               RECEIVED    has every acknowledged write
    SHARING                               TAKING      serves; writes go to both
    MOVED    neither reads nor writes     TAKING
    MOVED                                 OWNED

Each replica keeps its own table; docs/CONSISTENCY.md explains why no record is lost."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.model.records import SLOTS

SLOTS_BYTES = SLOTS // 8
# bool (SLOTS,): True for the slots in the set.
SlotSet = npt.NDArray[np.bool_]


class SlotState(enum.IntEnum):
    """The state of a slot. The values are part of the wire format and of shard.json."""

    NONE = 0
    RECEIVING = 1
    RECEIVED = 2
    TAKING = 3
    OWNED = 4
    SHARING = 5
    MOVED = 6


class HandOverStep(enum.Enum):
    """SHARE: forward writes to the taker, too. RELEASE: stop serving, since the taker has everything."""

    SHARE = 1
    RELEASE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class HandOver:
    """A step that the taker of slots requests from a replica of the partition that holds them.

    Attributes:
        taker: The partition that takes the slots.
        generations: uint32 (SLOTS,), the generation that each slot has there.
    """

    step: HandOverStep
    slots: SlotSet
    taker: int
    generations: npt.NDArray[np.uint32]


_SERVING = np.array([False, False, False, True, True, True, False])
_WRITABLE = np.array([False, True, True, True, True, True, False])
_SHARED = np.array([False, True, True, True, False, True, False])


def no_slots() -> SlotSet:
    return np.zeros(SLOTS, np.bool_)


def all_slots() -> SlotSet:
    return np.ones(SLOTS, np.bool_)


def slots_to_bytes(slots: SlotSet) -> bytes:
    return np.packbits(slots).tobytes()


def slots_from_bytes(data: bytes) -> SlotSet:
    """Raises ValueError unless there is one bit per slot."""
    if len(data) != SLOTS_BYTES:
        raise ValueError(f"slots: {len(data)} bytes; send {SLOTS_BYTES}, one bit per slot")
    return np.unpackbits(np.frombuffer(data, np.uint8)).view(np.bool_)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SlotTable:
    """The state of each slot on one replica of a partition.

    Attributes:
        own: The replica's partition.
        states: uint8 (SLOTS,) of SlotState.
        partners: uint16 (SLOTS,): the other partition of a slot that moves or has moved; otherwise `own`.
        generations: uint32 (SLOTS,), see the module's docstring; 0 where nothing is known.
    """

    own: int
    states: npt.NDArray[np.uint8]
    partners: npt.NDArray[np.uint16]
    generations: npt.NDArray[np.uint32]

    @classmethod
    def empty(cls, own: int) -> SlotTable:
        return cls(own, np.zeros(SLOTS, np.uint8), np.full(SLOTS, own, np.uint16), np.zeros(SLOTS, np.uint32))

    @classmethod
    def founded(cls, own: int, slots: SlotSet) -> SlotTable:
        """Returns the table of a shard of a new cluster, whose partition owns these slots from the start."""
        empty = cls.empty(own)
        return empty.put(slots, SlotState.OWNED, own, np.where(slots, 1, 0))

    @property
    def serving(self) -> SlotSet:
        """The slots whose reads this replica answers."""
        serving: SlotSet = _SERVING[self.states]
        return serving

    @property
    def writable(self) -> SlotSet:
        """The slots whose writes this replica accepts."""
        writable: SlotSet = _WRITABLE[self.states]
        return writable

    @property
    def shared(self) -> SlotSet:
        """The slots whose writes the partner must store as well."""
        shared: SlotSet = _SHARED[self.states] & (self.partners != self.own)
        return shared

    def slots_in(self, *states: SlotState) -> SlotSet:
        """The slots in one of these states."""
        found: SlotSet = np.isin(self.states, states)
        return found

    def receiving_from(self, source: int) -> SlotSet:
        """The slots that are being copied from a partition; if that is `own`, from its other replicas."""
        slots: SlotSet = self.slots_in(SlotState.RECEIVING) & (self.partners == source)
        return slots

    def put(
        self,
        slots: SlotSet,
        state: SlotState,
        partner: int | None = None,
        generations: npt.NDArray[np.integer] | None = None,
    ) -> SlotTable:
        """Returns a table with these slots in another state; partners and generations stay unless given."""
        return SlotTable(
            self.own,
            np.where(slots, state, self.states).astype(np.uint8),
            self.partners if partner is None else np.where(slots, partner, self.partners).astype(np.uint16),
            self.generations
            if generations is None
            else np.where(slots, generations, self.generations).astype(np.uint32),
        )

    def receive(self, slots: SlotSet, source: int, generations: npt.NDArray[np.integer]) -> SlotTable:
        """Begins to copy slots from a partition; if that is `own`, from its other replicas."""
        fresh = slots & self.slots_in(SlotState.NONE, SlotState.MOVED, SlotState.RECEIVING)
        behind = slots & (self.generations < generations)
        return self.put(fresh | behind, SlotState.RECEIVING, source, generations)

    def received(self, slots: SlotSet) -> SlotTable:
        """Marks slots that have every acknowledged write."""
        return self.put(slots & self.slots_in(SlotState.RECEIVING), SlotState.RECEIVED)

    def take(self, slots: SlotSet) -> SlotTable:
        """Begins to serve received slots."""
        ready = slots & self.slots_in(SlotState.RECEIVED)
        from_peers = ready & (self.partners == self.own)
        return self.put(from_peers, SlotState.OWNED).put(ready & ~from_peers, SlotState.TAKING)

    def settle(self, slots: SlotSet) -> SlotTable:
        """Ends the move of slots that the source no longer serves."""
        return self.put(slots & self.slots_in(SlotState.TAKING), SlotState.OWNED, self.own)

    def share(self, slots: SlotSet, taker: int, generations: npt.NDArray[np.integer]) -> SlotTable:
        """Forwards writes also to the taker, which will hold the slots in these generations. Slots that take part
        in another move stay unchanged."""
        able = slots & self.slots_in(SlotState.OWNED) & (self.generations + 1 == generations)
        return self.put(able, SlotState.SHARING, taker)

    def shared_with(self, taker: int, generations: npt.NDArray[np.integer]) -> SlotSet:
        """The slots whose writes are forwarded to the taker."""
        sharing = self.slots_in(SlotState.SHARING) & (self.partners == taker)
        shared: SlotSet = sharing & (self.generations + 1 == generations)
        return shared

    def release(self, slots: SlotSet, taker: int, generations: npt.NDArray[np.integer]) -> SlotTable:
        """Stops serving slots that the taker holds in these generations. Slots that have moved on since then stay
        unchanged."""
        mine = slots & (self.generations < generations)
        return self.put(mine, SlotState.MOVED, taker, np.maximum(generations, 1) - 1)

    def hand_over(self, move: HandOver) -> SlotTable:
        """Takes the step that a taker requests."""
        step = self.share if move.step is HandOverStep.SHARE else self.release
        return step(move.slots, move.taker, move.generations)

    def handed_over(self, move: HandOver) -> SlotSet:
        """The slots for which the step of `hand_over` is done. RELEASE is done for all slots of the move."""
        if move.step is HandOverStep.SHARE:
            return move.slots & self.shared_with(move.taker, move.generations)
        return move.slots

    def follow(self, peer: SlotTable) -> SlotTable:
        """Adopts what another replica of the partition learned while this one was away: that writes are forwarded
        to a taker, or that the slot has moved."""
        behind = (
            self.slots_in(SlotState.OWNED)
            & (peer.generations == self.generations)
            & peer.slots_in(SlotState.SHARING)
        )
        table = self
        for taker in np.unique(peer.partners[behind]):
            table = table.put(behind & (peer.partners == taker), SlotState.SHARING, int(taker))
        gone = (
            table.slots_in(SlotState.OWNED, SlotState.SHARING)
            & (peer.generations == table.generations)
            & peer.slots_in(SlotState.MOVED)
        )
        for taker in np.unique(peer.partners[gone]):
            table = table.put(gone & (peer.partners == taker), SlotState.MOVED, int(taker))
        return table

    def same_as(self, other: SlotTable) -> bool:
        return (
            np.array_equal(self.states, other.states)
            and np.array_equal(self.partners, other.partners)
            and np.array_equal(self.generations, other.generations)
        )


def partitions_named(tables: Sequence[SlotTable]) -> int:
    """Returns the highest partition that may hold records, plus one.

    Args:
        tables: Tables of any shards. Some may be old: an entry counts unless another table serves the slot in a
            later generation.
    """
    served = np.zeros(SLOTS, np.uint32)
    for table in tables:
        served = np.maximum(served, np.where(table.serving, table.generations, 0))
    highest = 0
    for table in tables:
        holds = table.writable & (table.generations >= served)
        named = table.partners[holds | (table.slots_in(SlotState.MOVED) & (table.generations + 1 > served))]
        highest = max(highest, table.own + 1 if holds.any() else 0, int(named.max()) + 1 if len(named) else 0)
    return highest


def served_by_any(tables: Iterable[SlotTable]) -> SlotSet:
    """The slots that at least one of these tables serves."""
    served = no_slots()
    for table in tables:
        served |= table.serving
    return served
