"""Owns the connection to another shard: what it is, what it has, and the steps of a slot's way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike import wire
from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotSet, slots_from_bytes, slots_to_bytes
from lookalike.model.records import VersionedRecord
from lookalike.server.peer_channels import PeerChannels
from lookalike.transport.rpc import call_by
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from shard.digests import Rows
from shard.engine import Listing

STATE_SECONDS = 1.5
WORK_SECONDS = 30.0


class Peer:
    """Calls to one other shard. Every method raises the LookalikeError of the failure."""

    def __init__(self, partition: int, replica: int, address: str, peer_channels: PeerChannels) -> None:
        self.partition = partition
        self.replica = replica
        self._connection = peer_channels.connect(address)

    @property
    def _stub(self) -> Any:
        return self._connection.stub(ShardServiceStub)

    async def close(self) -> None:
        await self._connection.close()

    async def state(self, target: Target | None, include_digests: bool = False) -> ShardState:
        """What the shard says of itself, after it was told of the target."""
        request = pb.ShardStatusRequest(include_digests=include_digests)
        if target is not None:
            request.target.CopyFrom(wire.target_to_wire(target))
        state = wire.state_from_wire(await call_by(self._stub.ShardStatus, request, _in(STATE_SECONDS)))
        state.require(self.partition, self.replica)
        return state

    async def list_rows(self, collection: str, incarnation: int, slots: SlotSet) -> Listing:
        request = pb.ListRowsRequest(collection=collection, incarnation=incarnation, slots=slots_to_bytes(slots))
        answer = await call_by(self._stub.ListRows, request, _in(WORK_SECONDS))
        return Listing(
            np.frombuffer(answer.numbers, "<u4").astype(np.uint32),
            Rows(
                np.frombuffer(answer.ids, "<u8").astype(np.uint64),
                np.frombuffer(answer.versions, "<u8").astype(np.uint64),
                np.frombuffer(answer.deleted, np.uint8).astype(np.bool_),
            ),
        )

    async def read_rows(
        self, collection: str, incarnation: int, numbers: npt.NDArray[np.uint32]
    ) -> tuple[Sequence[VersionedRecord], int]:
        """The records of those of the first numbers that still exist; of how many numbers."""
        request = pb.ReadRowsRequest(
            collection=collection, incarnation=incarnation, numbers=numbers.astype("<u4").tobytes()
        )
        answer = await call_by(self._stub.ReadRows, request, _in(WORK_SECONDS))
        return [wire.versioned_from_wire(record) for record in answer.records], answer.read

    async def fetch_hash(self, collection: str) -> bytes:
        answer = await call_by(self._stub.FetchHash, pb.FetchHashRequest(collection=collection), _in(WORK_SECONDS))
        return bytes(answer.hash_file)

    async def share(self, slots: SlotSet, taker: int, generations: npt.NDArray[np.uint32]) -> SlotSet:
        """Have it tell its writers of the taker. Returns the slots for which it does."""
        return await self._hand_over(pb.HandOverRequest.STEP_SHARE, slots, taker, generations)

    async def release(self, slots: SlotSet, taker: int, generations: npt.NDArray[np.uint32]) -> SlotSet:
        """Have it stop serving. Returns the slots that it does not serve any more."""
        return await self._hand_over(pb.HandOverRequest.STEP_RELEASE, slots, taker, generations)

    async def _hand_over(
        self,
        step: pb.HandOverRequest.Step.ValueType,
        slots: SlotSet,
        taker: int,
        generations: npt.NDArray[np.uint32],
    ) -> SlotSet:
        request = pb.HandOverRequest(
            step=step,
            slots=slots_to_bytes(slots),
            partition=taker,
            generations=wire.generations_to_wire(generations),
        )
        answer = await call_by(self._stub.HandOver, request, _in(STATE_SECONDS))
        return slots_from_bytes(answer.done)


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
