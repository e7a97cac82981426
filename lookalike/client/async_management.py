"""Owns the calls of `AsyncClient` that manage collections and partitions, and how each call is retried."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import grpc

from lookalike import wire
from lookalike.client.calls import Answer, Call, Calls
from lookalike.client.endpoints import AsyncCoordinators
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import AlreadyExists, NotFound
from lookalike.model.features import NONE
from lookalike.model.filters import GivenFilter
from lookalike.model.indexing import SCAN, Indexing
from lookalike.model.records import DEFAULT_PAGE, Collection, CopiedPage, VersionedRecord
from lookalike.model.status import ClusterStatus
from lookalike.model.ttl import Ttl
from lookalike.transport import tracing
from lookalike.transport.retry import MAX_ATTEMPTS, Retry, was_never_sent


class AsyncManagement:
    """The calls that neither search nor change records. Use `AsyncClient`, which has them."""

    def __init__(self, calls: Calls, coordinators: AsyncCoordinators) -> None:
        self._calls = calls
        self._coordinators = coordinators

    async def create_collection(
        self,
        name: str,
        *,
        bits: int | None = None,
        code_space: CodeSpace | None = None,
        index: str = SCAN,
        index_attributes: Sequence[str] = (),
        features: str = NONE,
        feature_width: int = 0,
        hash_file: bytes = b"",
        encoder: str | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
    ) -> Collection:
        """Creates a collection, by default in the code space of the cluster's default encoder.

        Args:
            name: 1..128 letters, digits, ".", "_" and "-".
            bits: The width of codes that are made elsewhere.
            code_space: The code space of codes that are made elsewhere, instead of `bits`.
            index: "scan", or "mih" if most searches are for close neighbours.
            index_attributes: Attributes to index: those that filters use often.
            features: "int8" or "float16" to store features for reranking.
            feature_width: Values per feature vector, for codes that are made elsewhere.
            hash_file: The hash file that the codes were computed with; requires `code_space`.
            encoder: The name of another of the cluster's encoders, in whose code space to create it.
            ttl: When its records expire; never by default.
            timeout: Seconds that the call may take, retries included; the client's by default.

        Raises:
            InvalidRequest: If an argument is malformed or out of range, or no encoder has this name.
            AlreadyExists: If the collection, or an alias of this name, exists.
        """
        indexing = Indexing(index, tuple(index_attributes), features, feature_width)
        call = self._calls.create_collection(name, bits, code_space, indexing, hash_file, encoder, ttl)
        return await self._run(call, self._calls.deadline(timeout))

    async def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """Describes a collection: by its name, or by an alias. Raises NotFound."""
        return await self._run(self._calls.get_collection(name), self._calls.deadline(timeout))

    async def get_hash_file(self, name: str, *, timeout: float | None = None) -> bytes:
        """Returns the collection's hash file, for an encoder's `encoder.hash`; empty if it has none."""
        return await self._run(self._calls.get_hash_file(name), self._calls.deadline(timeout))

    async def list_collections(self, *, timeout: float | None = None) -> list[Collection]:
        """Lists the collections that the caller may see."""
        return await self._run(self._calls.list_collections(), self._calls.deadline(timeout))

    async def drop_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a collection and its records.

        Raises:
            InvalidRequest: If the name is an alias, or the collection has aliases.
            NotFound: If the collection does not exist.
        """
        await self._run(self._calls.drop_collection(name), self._calls.deadline(timeout))

    async def create_alias(self, alias: str, collection: str, *, timeout: float | None = None) -> None:
        """Gives a collection another name, for any call but `drop_collection` and `rename_collection`.

        Raises:
            AlreadyExists: If a collection or an alias has this name.
            NotFound: If the collection does not exist.
        """
        await self._run(self._calls.create_alias(alias, collection), self._calls.deadline(timeout))

    async def switch_alias(self, alias: str, collection: str, *, timeout: float | None = None) -> None:
        """Points an alias to another collection. Returns after about 3 s: every later call, through any
        coordinator, sees the new collection. Raises NotFound if one of the two does not exist."""
        await self._run(self._calls.switch_alias(alias, collection), self._calls.deadline(timeout))

    async def delete_alias(self, alias: str, *, timeout: float | None = None) -> None:
        """Deletes an alias; its collection stays. Raises NotFound."""
        await self._run(self._calls.delete_alias(alias), self._calls.deadline(timeout))

    async def list_aliases(self, *, timeout: float | None = None) -> dict[str, str]:
        """Returns the collection of each alias that the caller may see."""
        return await self._run(self._calls.list_aliases(), self._calls.deadline(timeout))

    async def rename_collection(self, name: str, new_name: str, *, timeout: float | None = None) -> Collection:
        """Renames a collection, without moving its records. Its aliases stay with it. Returns after about 3 s:
        every later call, through any coordinator, sees only the new name.

        Raises:
            AlreadyExists: If a collection or an alias has the new name.
            InvalidRequest: If the name is an alias.
            NotFound: If the collection does not exist.
        """
        return await self._run(self._calls.rename_collection(name, new_name), self._calls.deadline(timeout))

    async def set_ttl(self, name: str, ttl: Ttl | None, *, timeout: float | None = None) -> Collection:
        """Sets when the records of a collection expire; None for never. Raises NotFound."""
        return await self._run(self._calls.set_ttl(name, ttl), self._calls.deadline(timeout))

    async def copy_collection(
        self,
        source: str,
        target: str,
        *,
        filter: GivenFilter = None,
        resume: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[CopiedPage]:
        """Copies the records of a collection to a new one with the same code space and indexing.

        A record that is not changed during the whole copy is copied exactly: code, attributes, thumbnail and
        features. Others are copied as they were at some moment of it.

        Args:
            source: The collection to copy.
            target: The collection to create.
            filter: Copy only matching records.
            resume: Continue a copy that was interrupted, or add to a collection of the same code space: what the
                target has already is not copied again, and later writes of a key in the target are kept.
            timeout: Seconds that each request may take, retries included; the client's timeout by default.

        Yields:
            What each call copied.

        Raises:
            AlreadyExists: If the target exists, unless `resume` is set.
            CodeSpaceMismatch: If it has another code space, or stores other features.
        """
        if not resume:
            try:
                await self.get_collection(target, timeout=timeout)
            except NotFound:
                pass
            else:
                raise AlreadyExists(f"target: {target!r} exists; use another name, or resume the copy")
        # An alias that is switched during the copy must not mix two collections.
        name = (await self.get_collection(source, timeout=timeout)).name
        cursor = ""
        while True:
            call = self._calls.copy_records(name, target, filter, DEFAULT_PAGE, cursor)
            page = await self._run(call, self._calls.deadline(timeout))
            yield page
            cursor = page.cursor
            if not cursor:
                return

    async def drain(self, partition: int, *, undo: bool = False, timeout: float | None = None) -> int:
        """Moves all slots off a partition, for maintenance. Returns at once; `status` shows the progress.

        Args:
            partition: The partition's number, from 0.
            undo: Give the partition its share of the slots again.
            timeout: Seconds that the call may take, retries included; the client's by default.

        Returns:
            The number of slots that the partition still holds.
        """
        return await self._run(self._calls.drain(partition, undo), self._calls.deadline(timeout))

    async def backup(
        self, collection: str, slots: SlotSet, since: Sequence[Mark] = (), *, timeout: float | None = None
    ) -> AsyncIterator[Head | list[VersionedRecord]]:
        """Reads one partition's records of these slots. Not retried: call it again for the missing slots.

        Args:
            slots: bool (1024,), the wanted slots.
            since: Marks of an earlier backup, to read only the changes since then.
            timeout: Seconds for the whole stream; unlimited by default.

        Yields:
            First the head, which names the slots that the partition has, then batches of records.
        """
        left = None if timeout is None else self._calls.deadline(timeout) - time.monotonic()
        coordinator = self._coordinators.next()
        try:
            request = wire.dump_request_to_wire(collection, slots, since)
            async for part in coordinator.stub.Backup(request, timeout=left):
                for found in wire.dump_part_from_wire(part):
                    yield found
        except grpc.RpcError as failure:
            error = self._calls.explain(failure, coordinator.address)
            self._coordinators.failed(coordinator, error)
            raise error from None

    async def restore(
        self,
        records: Sequence[VersionedRecord],
        collection: str,
        fingerprint: str,
        features: str,
        *,
        timeout: float | None = None,
    ) -> int:
        """Stores up to 10,000 records and deletions of a backup as new writes. Returns their number."""
        return await self._run(
            self._calls.restore(records, collection, fingerprint, features), self._calls.deadline(timeout)
        )

    async def status(self, *, timeout: float | None = None) -> ClusterStatus:
        """Describes the cluster: its partitions, replicas, encoder, collections and pending moves."""
        return await self._run(self._calls.status(), self._calls.deadline(timeout))

    async def _run(self, call: Call[Answer], deadline: float | None = None) -> Answer:
        with tracing.calling(call.name) as metadata:
            return await self._with_retries(call, deadline or self._calls.deadline(), metadata)

    async def _with_retries(
        self, call: Call[Answer], deadline: float, metadata: tracing.Metadata | None
    ) -> Answer:
        retry = Retry(deadline, attempts=MAX_ATTEMPTS)
        while True:
            coordinator = self._coordinators.next()
            remaining = deadline - time.monotonic()
            try:
                send = getattr(coordinator.stub, call.name)
                return call.read(await send(call.request, timeout=remaining, metadata=metadata))
            except grpc.RpcError as failure:
                error = self._calls.explain(failure, coordinator.address)
                is_harmless = call.is_repeatable or was_never_sent(failure)
            if self._coordinators.failed(coordinator, error) and is_harmless:
                continue
            if not is_harmless:
                raise error
            await retry.wait_async(error)
