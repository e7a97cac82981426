"""Owns the decisions on slots, as pure functions on tables: how a cluster forms, which slots to take and from
where, and when a step may be taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotSet, SlotState, SlotTable, no_slots
from shard.membership import Membership

# Slots that a shard begins to take from other partitions at once: so many are twice written and half copied.
SLOTS_AT_ONCE = 64

Place = tuple[int, int]  # partition, replica


@dataclasses.dataclass(frozen=True, slots=True)
class Quorum:
    """replicas: of each partition. writes: how many of them have a write before it is acknowledged."""

    replicas: int
    writes: int

    @property
    def reads(self) -> int:
        """Of so many replicas at least one has each acknowledged write."""
        return self.replicas - self.writes + 1

    @property
    def takers(self) -> int:
        """So many replicas must have a slot before its partition serves it."""
        return max(self.writes, self.replicas // 2 + 1)


def formation(me: Membership, expected: Sequence[Place], heard: Mapping[Place, ShardState]) -> Membership:
    """What a shard that belongs to no cluster yet becomes: a founder once all shards of its config are as new, or
    once another founder knows it; else a later member of the cluster that there is."""
    for other in heard.values():
        if other.is_formed and me.member in other.founders:
            return me.formed(other.founders)
    if formed := [other for other in heard.values() if other.is_formed]:
        return me.joined(max((other.target for other in formed), key=lambda target: target.order))
    if all(place in heard for place in expected):
        return me.formed(tuple(sorted({me.member, *(heard[place].member for place in expected)})))
    return me


def lost_to_peers(table: SlotTable, peers: Sequence[SlotTable]) -> npt.NDArray[np.uint32]:
    """Per slot the generation in which other replicas of the partition serve it while this one does not hold it,
    or holds it as of an earlier one; 0 elsewhere."""
    latest = table.generations * 0
    for peer in peers:
        latest = np.maximum(latest, np.where(peer.serving, peer.generations, 0))
    held = table.writable & (table.generations >= latest)
    # What came from another partition comes from here once this one serves it.
    held &= ~(table.are(SlotState.RECEIVING) & (table.partners != table.own) & (latest == table.generations))
    gone_since = table.are(SlotState.MOVED) & (table.generations >= latest)
    lost: npt.NDArray[np.uint32] = np.where(held | gone_since, 0, latest).astype(np.uint32)
    return lost


def to_take(
    table: SlotTable, target: Target, others: Mapping[Place, SlotTable], empty: SlotSet
) -> dict[int, tuple[SlotSet, npt.NDArray[np.uint32]]]:
    """Which slots to begin to take from other partitions now, and in which generations. empty: slots of which this
    shard has no rows left over."""
    under_way = table.are(SlotState.RECEIVING, SlotState.RECEIVED, SlotState.TAKING)
    room = max(0, SLOTS_AT_ONCE - int(np.count_nonzero(under_way)))
    begun_by_peers = no_slots()
    wanted = table.are(SlotState.NONE, SlotState.MOVED) & empty
    own = table.own
    mine = target.owners() == own
    source, generations = np.full(len(wanted), -1), np.zeros(len(wanted), np.uint32)
    for (partition, _), other in others.items():
        if partition == own:
            # What another replica of this partition serves comes from there.
            wanted &= ~other.serving
            begun_by_peers |= other.are(SlotState.RECEIVING, SlotState.RECEIVED) & (other.partners != own)
            continue
        for_me = other.are(SlotState.SHARING) & (other.partners == own)
        free = (other.are(SlotState.OWNED) & mine) | for_me
        later = free & (other.generations + 1 > np.maximum(generations, table.generations))
        source = np.where(later, partition, source)
        generations = np.where(later, other.generations + 1, generations)
    able = wanted & (source >= 0)
    # Those of this partition's other replicas come whether there is room or not: each may be full of what the
    # other lacks, and neither may serve a slot alone.
    chosen = able & begun_by_peers
    chosen[np.flatnonzero(able & ~chosen)[:room]] = True
    return {
        int(partition): (chosen & (source == partition), generations) for partition in np.unique(source[chosen])
    }


def abandoned(table: SlotTable, others: Mapping[Place, SlotTable]) -> SlotSet:
    """Slots that this shard began to receive from a partition that holds them no longer: it says so, or, for it
    may be gone, a third one serves them in as late a generation."""
    receiving = table.are(SlotState.RECEIVING)
    gone = no_slots()
    for (partition, _), other in others.items():
        if partition != table.own:
            taken = receiving & (table.partners != table.own) & other.serving
            gone |= taken & (other.generations >= table.generations)
    for source in np.unique(table.partners[receiving]):
        part = receiving & (table.partners == source)
        holders = [other for (partition, _), other in others.items() if partition == source]
        if holders:
            gone |= part & np.logical_and.reduce(
                [~holder.writable & (holder.generations + 1 >= table.generations) for holder in holders]
            )
    return gone


def ready_to_take(table: SlotTable, peers: Sequence[SlotTable], quorum: Quorum) -> SlotSet:
    """Received slots that so many replicas of this partition have that it may serve them."""
    having = np.ones(len(table.states), np.int64)
    for peer in peers:
        has = peer.are(SlotState.RECEIVED, SlotState.TAKING, SlotState.OWNED, SlotState.SHARING)
        having += has & (peer.generations == table.generations)
    enough = (having >= quorum.takers) | (table.partners == table.own)
    ready: SlotSet = table.are(SlotState.RECEIVED) & enough
    return ready


def to_settle(table: SlotTable) -> dict[int, SlotSet]:
    """By the partition that is to release them, the slots that this one serves and that one may still serve."""
    taking = table.are(SlotState.TAKING)
    return {int(source): taking & (table.partners == source) for source in np.unique(table.partners[taking])}
