"""Owns the decisions on slots, as pure functions on slot tables: how a cluster forms, which slots to take and from
which partition, and when each step of a transfer is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotSet, SlotState, SlotTable, no_slots
from shard.membership import Membership

# How many slots a shard takes from other partitions at once.
# Writes to a moving slot are stored by both partitions.
SLOTS_AT_ONCE = 64

Place = tuple[int, int]  # partition, replica


@dataclasses.dataclass(frozen=True, slots=True)
class Quorum:
    """How many replicas a step needs.

    Attributes:
        replicas: The number of replicas of each partition.
        writes: How many of them must have a write on disk before it is acknowledged.
    """

    replicas: int
    writes: int

    @property
    def reads(self) -> int:
        """The smallest number of replicas that always includes one with any given acknowledged write."""
        return self.replicas - self.writes + 1

    @property
    def siblings(self) -> int:
        """The number of siblings to copy from in order to have every acknowledged write; at least one."""
        return max(1, min(self.reads, self.replicas - 1))

    @property
    def takers(self) -> int:
        """The number of replicas that must have received a slot before their partition serves it."""
        return max(self.writes, self.replicas // 2 + 1)


def formation(me: Membership, expected: Sequence[Place], states: Mapping[Place, ShardState]) -> Membership:
    """Decides the role of a shard that does not belong to a cluster yet.

    Args:
        me: This shard's membership.
        expected: The other shards of the config.
        states: The shards that answered.

    Returns:
        `me` as a founder, if a shard that answered lists this shard as a founder, or if all shards of the config
        answered and none belongs to a cluster; `me` as a later member, if another shard belongs to a cluster;
        otherwise `me` unchanged.
    """
    for other in states.values():
        if other.is_formed and me.member in other.founders:
            return me.formed(other.founders)
    if formed := [other for other in states.values() if other.is_formed]:
        return me.joined(max((other.target for other in formed), key=lambda target: target.order))
    if all(place in states for place in expected):
        return me.formed(tuple(sorted({me.member, *(states[place].member for place in expected)})))
    return me


def is_moving(table: SlotTable) -> bool:
    """Returns whether this shard is taking any slot, from another partition or from its siblings."""
    return bool(table.slots_in(SlotState.RECEIVING, SlotState.RECEIVED, SlotState.TAKING).any())


def wants_slots(table: SlotTable, target: Target) -> bool:
    """Returns whether the target gives this partition a slot that it does not hold."""
    return bool(((target.owners() == table.own) & ~table.writable).any())


def lost_to_peers(table: SlotTable, peers: Sequence[SlotTable]) -> npt.NDArray[np.uint32]:
    """Finds the slots that other replicas of the partition serve, and that this shard lacks or holds in an
    earlier generation.

    Returns:
        uint32 (SLOTS,): the latest generation in which a replica serves the slot; 0 for slots that are not lost.
    """
    latest = table.generations * 0
    for peer in peers:
        latest = np.maximum(latest, np.where(peer.serving, peer.generations, 0))
    held = table.writable & (table.generations >= latest)
    # A slot that is being received from another partition is copied from a sibling once a sibling serves it.
    held &= ~(table.slots_in(SlotState.RECEIVING) & (table.partners != table.own) & (latest == table.generations))
    gone_since = table.slots_in(SlotState.MOVED) & (table.generations >= latest)
    lost: npt.NDArray[np.uint32] = np.where(held | gone_since, 0, latest).astype(np.uint32)
    return lost


def to_take(
    table: SlotTable, target: Target, others: Mapping[Place, SlotTable], empty: SlotSet
) -> dict[int, tuple[SlotSet, npt.NDArray[np.uint32]]]:
    """Decides which slots to begin to take from other partitions.

    Args:
        table: This shard's table.
        target: The placement to reach.
        others: The tables of all other shards that answered, siblings included.
        empty: The slots for which this shard has no leftover rows.

    Returns:
        By source partition: the slots, and uint32 (SLOTS,) the generations that they will have in this partition.
    """
    under_way = table.slots_in(SlotState.RECEIVING, SlotState.RECEIVED, SlotState.TAKING)
    room = max(0, SLOTS_AT_ONCE - int(np.count_nonzero(under_way)))
    begun_by_peers = no_slots()
    wanted = table.slots_in(SlotState.NONE, SlotState.MOVED) & empty
    own = table.own
    mine = target.owners() == own
    source, generations = np.full(len(wanted), -1), np.zeros(len(wanted), np.uint32)
    for (partition, _), other in others.items():
        if partition == own:
            # A slot that a sibling serves is copied from the sibling.
            wanted &= ~other.serving
            begun_by_peers |= other.slots_in(SlotState.RECEIVING, SlotState.RECEIVED) & (other.partners != own)
            continue
        for_me = other.slots_in(SlotState.SHARING) & (other.partners == own)
        free = (other.slots_in(SlotState.OWNED) & mine) | for_me
        later = free & (other.generations + 1 > np.maximum(generations, table.generations))
        source = np.where(later, partition, source)
        generations = np.where(later, other.generations + 1, generations)
    able = wanted & (source >= 0)
    # Slots that a sibling has begun to take are taken even without room: otherwise two replicas, each full of
    # slots that the other lacks, would wait for each other, because neither may serve a slot alone.
    chosen = able & begun_by_peers
    chosen[np.flatnonzero(able & ~chosen)[:room]] = True
    return {
        int(partition): (chosen & (source == partition), generations) for partition in np.unique(source[chosen])
    }


def abandoned(table: SlotTable, others: Mapping[Place, SlotTable]) -> SlotSet:
    """Finds the slots that this shard began to receive from a partition that no longer holds them.

    A slot is abandoned if every replica of that partition that answered reports that it no longer holds the slot,
    or if a third partition serves the slot in an equal or later generation (the first may have been removed).
    """
    receiving = table.slots_in(SlotState.RECEIVING)
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
    """Finds the received slots that enough replicas of this partition have, so that this shard may serve them."""
    having = np.ones(len(table.states), np.int64)
    for peer in peers:
        has = peer.slots_in(SlotState.RECEIVED, SlotState.TAKING, SlotState.OWNED, SlotState.SHARING)
        having += has & (peer.generations == table.generations)
    enough = (having >= quorum.takers) | (table.partners == table.own)
    ready: SlotSet = table.slots_in(SlotState.RECEIVED) & enough
    return ready


def take_like_siblings(table: SlotTable, slots: SlotSet, siblings: Sequence[SlotTable]) -> SlotTable:
    """Makes this shard serve slots that it copied from siblings. If a sibling still forwards a slot's writes to
    the previous partition, so does this shard."""
    table = table.take(slots)
    for sibling in siblings:
        same = slots & sibling.slots_in(SlotState.TAKING) & (sibling.generations == table.generations)
        for source in np.unique(sibling.partners[same]):
            table = table.put(same & (sibling.partners == source), SlotState.TAKING, int(source))
    return table


def to_settle(table: SlotTable) -> dict[int, SlotSet]:
    """Returns, by previous partition, the slots that this partition serves and the previous one may still
    serve."""
    taking = table.slots_in(SlotState.TAKING)
    return {int(source): taking & (table.partners == source) for source in np.unique(table.partners[taking])}
