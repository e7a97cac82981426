"""Owns the loop that keeps a shard up with the cluster: it hears the others, forms or joins the cluster, catches
up before it is ready, repairs what differs, takes the slots that are to be its own, and clears the others away.

Every step is in the table on disk before it has an effect elsewhere, and may be repeated; so the loop can end at
any point, with the process, and go on from there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np

from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import (
    SlotSet,
    SlotState,
    SlotTable,
    no_slots,
    partitions_named,
    served_by_any,
)
from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig
from lookalike.server.observe import metrics
from lookalike.server.peer_channels import PeerChannels
from shard.engine import Engine
from shard.node import Node
from shard.replication import moves
from shard.replication.moves import Place, Quorum
from shard.replication.peer import Peer
from shard.replication.repair import Repairer, Throttle
from shard.server import ShardServicer

log = logging.getLogger("shard.keeper")
FORMING_SECONDS = 0.2
MOVING_SECONDS = 0.1
HEAR_ALL_SECONDS = 10.0
# How long a shard that starts waits for a replica that is loading, too.
LOADING_PEER_SECONDS = 10.0
# Comparing takes at most this share of the time.
_REPAIR_SHARE = 0.2
_REMOVE_ROWS = 2_000
_REMOVED_BYTES = 100
_VERSION_SHIFT = 21


class Reconciler:
    """Runs beside the servicer until cancelled. `on_ready` is called with whether reads are answered."""

    def __init__(
        self,
        node: Node,
        servicer: ShardServicer,
        config: ClusterConfig,
        peer_channels: PeerChannels,
        on_ready: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._node = node
        self._servicer = servicer
        self._config = config
        self._peer_channels = peer_channels
        self._on_ready = on_ready
        self._repairer = Repairer(node, servicer)
        self._throttle = Throttle(config.shard.rebalance_mb_per_second * 1e6)
        self._peers: dict[Place, Peer] = {}
        self._states: dict[Place, ShardState] = {}
        self._hindered: dict[Place, str] = {}
        self._poked = asyncio.Event()
        self._started = time.monotonic()
        self._heard_all_at = -HEAR_ALL_SECONDS
        self._repair_at = 0.0
        self._synced_at: float | None = None
        self._partition = node.identity.partition
        self._place = (self._partition, node.identity.replica)
        self._mark = node.folder / "synced"

    async def run(self) -> None:
        self._remember_freshness()
        await self._reload(self._config)
        try:
            while True:
                pause = await self._cycle_or_log()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._poked.wait(), pause)
                self._poked.clear()
        finally:
            for peer in self._peers.values():
                await peer.close()
            # A restart after an error opens them again.
            self._peers.clear()

    def gauges(self) -> Iterator[metrics.Sample]:
        """What the metrics show of it."""
        place = (str(self._partition), str(self._node.identity.replica))
        if self._synced_at is not None and self._config.replicas > 1:
            yield metrics.SYNC_AGE_SECONDS, place, time.monotonic() - self._synced_at
        yield metrics.SLOTS_DIFFERING, place, self._repairer.slots_differing

    async def reload(self, config: ClusterConfig) -> None:
        """Go on with another config."""
        await self._reload(config)
        self._heard_all_at = -HEAR_ALL_SECONDS
        self._poked.set()

    async def _reload(self, config: ClusterConfig) -> None:
        self._config = config
        before = self._node.membership.target
        after = await self._servicer.change(lambda known: known.read_config(config.partitions))
        if after.target != before:
            log.info("%d partitions from now on (epoch %d)", after.target.partitions, after.target.epoch)

    @property
    def _quorum(self) -> Quorum:
        return Quorum(self._config.replicas, self._config.writes_needed)

    async def _cycle_or_log(self) -> float:
        """One round of the loop. Returns how long to wait for the next."""
        try:
            return await self._cycle()
        except LookalikeError as error:
            log.info("to be repeated: %s", error.message)
        except Exception:
            log.exception("a round of the keeper failed")
        return FORMING_SECONDS

    async def _cycle(self) -> float:
        began = time.monotonic()
        await self._hear(began)
        if not self._node.membership.is_formed:
            await self._form()
            return 0.0 if self._node.membership.is_formed else FORMING_SECONDS
        for place, state in self._states.items():
            if state.is_formed:
                await self._repairer.follow_catalog(self._peers[place], state)
        await self._follow_peers()
        await self._recover()
        repaired = await self._repair(began)
        await self._become_ready(repaired)
        is_moving = await self._move()
        await self._clear_away()
        if not self._servicer.is_ready or is_moving:
            return MOVING_SECONDS
        return float(self._config.shard.sync_seconds)

    # -- hearing ------------------------------------------------------------------------------------------

    async def _hear(self, now: float) -> None:
        """Ask the other replicas of this partition, now and then or while slots move all shards, what they are."""
        table = self._node.table
        is_moving = bool(table.are(SlotState.RECEIVING, SlotState.RECEIVED, SlotState.TAKING).any())
        everyone = (
            not self._node.membership.is_formed
            or is_moving
            or self._wants_slots(table)
            or now - self._heard_all_at >= HEAR_ALL_SECONDS
        )
        if everyone:
            self._heard_all_at = now
        places = [place for place in self._places() if everyone or place[0] == self._partition]
        target = self._node.membership.target if self._node.membership.is_formed else None
        answers = await asyncio.gather(
            *(self._peer(place).state(target) for place in places), return_exceptions=True
        )
        for place, answer in zip(places, answers, strict=True):
            self._states.pop(place, None)
            if isinstance(answer, ShardState) and answer.cluster == self._config.cluster:
                self._states[place] = answer
            elif isinstance(answer, BaseException) and not isinstance(answer, LookalikeError):
                raise answer
        latest = max(
            (state.target for state in self._states.values() if state.is_formed),
            key=lambda known: known.order,
            default=None,
        )
        if latest is not None and latest.order > self._node.membership.target.order:
            await self._servicer.change(lambda before: before.told(latest) if before.is_formed else before)
            self._heard_all_at = -HEAR_ALL_SECONDS

    def _wants_slots(self, table: SlotTable) -> bool:
        mine = self._node.membership.target.owners() == self._partition
        return bool((mine & ~table.writable).any())

    def _places(self) -> list[Place]:
        """All other shards that there may be."""
        known = [state.target.partitions for state in self._states.values()]
        target = self._node.membership.target
        tables = [self._node.table, *(state.table for state in self._states.values())]
        count = max(self._config.partitions, target.partitions, partitions_named(tables), *known)
        if not served_by_any(tables).all():
            count = max(count, target.formerly)
        return [
            (partition, replica)
            for partition in range(count)
            for replica in range(self._config.replicas)
            if (partition, replica) != self._place
        ]

    def _peer(self, place: Place) -> Peer:
        if place not in self._peers:
            self._peers[place] = Peer(*place, self._config.shard_address(*place), self._peer_channels)
        return self._peers[place]

    def _tables(self, is_own: bool) -> dict[Place, SlotTable]:
        """The tables of the shards that answered: of this partition's other replicas, or of other partitions."""
        return {
            place: state.table
            for place, state in self._states.items()
            if state.is_formed and (place[0] == self._partition) == is_own
        }

    # -- forming and following ------------------------------------------------------------------------------

    async def _form(self) -> None:
        expected = [
            (partition, replica)
            for partition in range(self._config.partitions)
            for replica in range(self._config.replicas)
            if (partition, replica) != self._place
        ]
        heard = dict(self._states)
        after = await self._servicer.change(lambda me: moves.formation(me, expected, heard))
        if after.is_formed:
            kind = "one of the founders" if after.founders else "a later member"
            log.info("%s of cluster %s, with %d slots", kind, self._config.cluster, int(after.table.serving.sum()))
            await self._reload(self._config)
            self._heard_all_at = -HEAR_ALL_SECONDS

    async def _follow_peers(self) -> None:
        """Learn from the partition's other replicas what happened to its slots while this one was away."""
        peers = list(self._tables(is_own=True).values())

        def follow(table: SlotTable) -> SlotTable:
            for peer in peers:
                table = table.follow(peer)
            return table

        await self._change_table(follow)

    async def _recover(self) -> None:
        """Fetch the slots that the partition's other replicas serve and this one lacks: its disk is new, or it was
        away while they came."""
        peers = self._tables(is_own=True)
        lost = moves.lost_to_peers(self._node.table, list(peers.values()))
        if lost.any():
            log.info("%d slots come from other replicas of this partition", np.count_nonzero(lost))
            await self._change_table(lambda table: table.receive(lost > 0, self._partition, lost))
        receiving = self._from(self._partition)
        if not receiving.any():
            return
        enough = max(1, min(self._quorum.reads, self._config.replicas - 1))
        done = np.zeros(len(receiving), np.int64)
        for place, peer_table in peers.items():
            slots = receiving & peer_table.serving
            if slots.any():
                pulled = await self._repairer.pull(self._peer(place), slots)
                metrics.PULLED.labels("recovery").inc(pulled)
                done += slots
        complete = receiving & (done >= enough)
        if complete.any():
            takers = [table for table in peers.values() if table.are(SlotState.TAKING).any()]
            await self._change_table(lambda table: _taken_with(table.received(complete), complete, takers))

    def _from(self, source: int) -> SlotSet:
        table = self._node.table
        slots: SlotSet = table.are(SlotState.RECEIVING) & (table.partners == source)
        return slots

    # -- repair ----------------------------------------------------------------------------------------------

    async def _repair(self, began: float) -> bool:
        """Have what the partition's other replicas have. Returns whether one of them was there for it."""
        peers = self._tables(is_own=True)
        if time.monotonic() < self._repair_at:
            return True
        own, repaired, repair_began = self._node.table, 0, time.monotonic()
        for place, table in peers.items():
            if self._states[place].reason.endswith("is loading"):
                continue
            # Only what is held as of the same move: a slot that went and came back is another matter.
            slots = own.writable & table.serving & (own.generations == table.generations)
            try:
                pulled = await self._repairer.pull(self._peer(place), slots, patience=self._servicer.is_ready)
                metrics.PULLED.labels("repair").inc(pulled)
            except LookalikeError as error:
                log.info("replica %d could not be compared with: %s", place[1], error.message)
                continue
            repaired += 1
            if pulled:
                log.info("%d rows came from replica %d", pulled, place[1])
        for name in self._node.damaged():
            enough = max(1, min(self._quorum.reads, self._config.replicas - 1))
            if repaired >= enough and name in self._node.engines():
                await self._servicer.in_writer(lambda name=name: self._node.is_filled(name))  # type: ignore[misc]
        if repaired + 1 >= self._quorum.reads:
            self._servicer.fresh_at(began if self._quorum.reads > 1 else None)
            self._mark.touch()
            self._synced_at = began
            await self._forget_tombstones()
        took = time.monotonic() - repair_began
        self._repair_at = time.monotonic() + took * (1 / _REPAIR_SHARE - 1) if self._servicer.is_ready else 0.0
        return repaired > 0

    async def _become_ready(self, repaired: bool) -> None:
        """Answer reads once the shard has what a live replica has, or there is none."""
        if self._servicer.is_ready:
            return
        own = [state for place, state in self._states.items() if place[0] == self._partition]
        waited = time.monotonic() - self._started
        if own and not repaired:
            loading = all(state.reason.endswith("is loading") for state in own)
            if not loading or waited < LOADING_PEER_SECONDS:
                self._servicer.set_ready("catches up with its other replicas")
                return
        if own and self._from(self._partition).any():
            self._servicer.set_ready("is being filled from its other replicas")
            return
        self._servicer.set_ready()
        log.info("ready %.1f s after the start", waited)
        await self._on_ready(True)

    def _remember_freshness(self) -> None:
        """As long as nobody was asked, this shard is as old as its last comparison."""
        if self._quorum.reads == 1:
            return
        with contextlib.suppress(FileNotFoundError):
            age = max(0.0, (time.time_ns() - os.stat(self._mark).st_mtime_ns) / 1e9)
            self._servicer.fresh_at(time.monotonic() - age)
            return
        self._servicer.fresh_at(time.monotonic())

    async def _forget_tombstones(self) -> None:
        """Forget deletions older than the grace period, up to a moment that all replicas choose alike."""
        grace_ms = int(self._config.shard.tombstone_hours * 3_600_000)
        step = max(1, grace_ms // 8)
        horizon = ((time.time_ns() // 1_000_000 - grace_ms) // step * step) << _VERSION_SHIFT
        for name, engine in self._node.engines().items():
            if engine.horizon < horizon and (await self._forget(engine, horizon)):
                log.info("collection %s forgot deletions", name)

    async def _forget(self, engine: Engine, horizon: int) -> int:
        return await self._servicer.in_writer(lambda: engine.forget_tombstones(horizon))

    # -- moving ----------------------------------------------------------------------------------------------

    async def _move(self) -> bool:
        """Take a step with each slot that comes from another partition. Returns whether any is on its way."""
        await self._begin_to_take()
        table = self._node.table
        for source in np.unique(table.partners[table.are(SlotState.RECEIVING)]):
            if source != self._partition:
                await self._copy(int(source))
        await self._take()
        await self._settle()
        table = self._node.table
        return bool(
            table.are(SlotState.RECEIVING, SlotState.RECEIVED, SlotState.TAKING).any()
        ) or self._wants_slots(table)

    async def _begin_to_take(self) -> None:
        others = {**self._tables(is_own=True), **self._tables(is_own=False)}
        gone = moves.abandoned(self._node.table, others)
        if gone.any():
            await self._change_table(lambda table: table.put(gone, SlotState.NONE, self._partition))
        empty = self._rows() == 0
        target = self._node.membership.target
        for source, (slots, generations) in moves.to_take(self._node.table, target, others, empty).items():
            log.info("%d slots come from partition %d", int(slots.sum()), source)
            await self._change_table(lambda table, s=slots, p=source, g=generations: table.receive(s, p, g))  # type: ignore[misc]

    async def _copy(self, source: int) -> None:
        """Have the writers of slots told of this partition by enough replicas of their present one, and then copy
        from each of those what it has."""
        slots = self._from(source)
        generations = self._node.table.generations
        copied = np.zeros(len(slots), np.int64)
        for replica in range(self._config.replicas):
            peer = self._peer((source, replica))
            try:
                shared = await peer.share(slots, self._partition, generations) & slots
                if shared.any():
                    pulled = await self._repairer.pull(peer, shared, self._throttle.pause)
                    metrics.PULLED.labels("move").inc(pulled)
                    copied += shared
                self._hindered.pop((source, replica), None)
            except LookalikeError as error:
                self._note((source, replica), error)
        complete = slots & (copied >= self._quorum.reads)
        if complete.any():
            await self._change_table(lambda table: table.received(complete))

    async def _take(self) -> None:
        peers = await self._fresh_tables(self._own_places())
        ready = moves.ready_to_take(self._node.table, peers, self._quorum)
        if ready.any():
            await self._change_table(lambda table: table.take(ready))

    async def _settle(self) -> None:
        """Have every replica of the partition that had slots stop serving them; then writers need not be sent
        there any more."""
        for source, slots in moves.to_settle(self._node.table).items():
            generations = self._node.table.generations
            for replica in range(self._config.replicas):
                try:
                    slots = slots & await self._peer((source, replica)).release(
                        slots, self._partition, generations
                    )
                    self._hindered.pop((source, replica), None)
                except LookalikeError as error:
                    self._note((source, replica), error)
                    slots = no_slots()
            if slots.any():
                settled = slots
                await self._change_table(lambda table, s=settled: table.settle(s))  # type: ignore[misc]

    def _note(self, place: Place, error: LookalikeError) -> None:
        """A shard hinders a move. Ten rounds a second may find that: what they find is logged when it changes."""
        if self._hindered.get(place) != error.message:
            log.info("slots wait for partition %d, replica %d: %s", *place, error.message)
        self._hindered[place] = error.message

    def _own_places(self) -> list[Place]:
        return [(self._partition, r) for r in range(self._config.replicas) if (self._partition, r) != self._place]

    async def _fresh_tables(self, places: Sequence[Place]) -> list[SlotTable]:
        if not self._node.table.are(SlotState.RECEIVED).any():
            return []
        answers = await asyncio.gather(
            *(self._peer(place).state(self._node.membership.target) for place in places), return_exceptions=True
        )
        return [answer.table for answer in answers if isinstance(answer, ShardState)]

    async def _clear_away(self) -> None:
        """Remove the rows of slots that are another partition's."""
        gone = ~self._node.table.writable & (self._rows() > 0)
        if not gone.any():
            return
        for engine in self._node.engines().values():
            listing = await self._servicer.in_reader(lambda e=engine: e.listing(gone))  # type: ignore[misc]
            for start in range(0, len(listing.numbers), _REMOVE_ROWS):
                part = listing.numbers[start : start + _REMOVE_ROWS]
                await self._servicer.in_writer(lambda e=engine, p=part: e.remove(p))  # type: ignore[misc]
                await self._throttle.pause(len(part) * _REMOVED_BYTES)

    def _rows(self) -> np.typing.NDArray[np.int64]:
        """Rows of each slot over all collections, tombstones included."""
        engines = self._node.engines().values()
        total = np.zeros(len(self._node.table.states), np.int64)
        for engine in engines:
            total = total + engine.sums.rows
        return total

    async def _change_table(self, step: Callable[[SlotTable], SlotTable]) -> None:
        await self._servicer.in_writer(lambda: self._node.change_table(step))


def _taken_with(table: SlotTable, slots: SlotSet, peers: Sequence[SlotTable]) -> SlotTable:
    """Serve slots that came from this partition's own replicas, and as those do: where they still send writers to
    the partition that had them, so does this one."""
    table = table.take(slots)
    for peer in peers:
        alike = slots & peer.are(SlotState.TAKING) & (peer.generations == table.generations)
        for source in np.unique(peer.partners[alike]):
            table = table.put(alike & (peer.partners == source), SlotState.TAKING, int(source))
    return table
