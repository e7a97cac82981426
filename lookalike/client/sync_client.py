"""Owns `Client`, the SDK for programs that wait for each answer.

Generated from async_client.py by scripts/unasync.py (`make client`): change that file, not this one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, Unpack

import grpc

from lookalike import wire
from lookalike.client.arguments import (
    Floats,
    Image,
    batches,
    has_codes,
    listed,
    one_fingerprint,
    queries_of,
)
from lookalike.client.calls import DEFAULT_TIMEOUT_SECONDS, Answer, Call, Calls, seconds_until
from lookalike.client.endpoints import Coordinators
from lookalike.client.keywords import shows_search_options
from lookalike.client.resend_buffer import ResendBuffer
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.features import NONE
from lookalike.model.indexing import SCAN, Indexing
from lookalike.model.records import (
    Collection,
    Outcome,
    Record,
    SearchResult,
    StoredRecord,
    VersionedRecord,
    check_collection_name,
)
from lookalike.model.search_options import SearchKeywords, SearchOptions
from lookalike.model.status import ClusterStatus
from lookalike.transport import tracing
from lookalike.transport.retry import MAX_ATTEMPTS, Retry, was_never_sent
from lookalike.transport.tls import Tls
from lookalike.v1 import search_pb2 as pb


class Client:
    """A connection to a cluster: `Client("127.0.0.1:7700")`. Safe to share between threads.

    Failures raise the classes of `lookalike.errors`. A call is retried within its timeout while a server or
    partition is unavailable, unless a second attempt could change the answer: create_collection and
    drop_collection are not retried. A retried delete counts the records that its last attempt found.

    Args:
        address: A coordinator's HOST:PORT, or several, as a list or separated by commas. Calls go to the addresses
            in turn. An address that does not answer is skipped for a while and its calls go to the next one. A
            host name may have several IP addresses, which are used in turn as well.
        timeout: Seconds that a call may take, retries included.
        api_key: The API key, if the cluster requires one.
        tls: True to verify the server against the system's certificate authorities, or a `Tls` with certificates.

    Raises:
        InvalidRequest: If an argument is malformed.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        api_key: str | None = None,
        tls: Tls | bool = False,
    ) -> None:
        self._calls = Calls(timeout)
        self._coordinators = Coordinators(grpc, address, api_key, tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Later calls raise InvalidRequest."""
        for channel in self._coordinators.close():
            channel.close()

    @shows_search_options
    def search(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: bytes | None = None,
        key: str | None = None,
        options: SearchOptions | None = None,
        projections: Floats | None = None,
        features: Floats | None = None,
        fingerprint: str | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> SearchResult:
        """Finds the k nearest records to an image, a code or a stored record. Give exactly one of the three.

        Args:
            collection: The collection's name.
            image: An encoded image file's bytes, or its path.
            code: A code of bits / 8 bytes.
            key: The key of a stored record, which is left out of its own hits.
            options: How to search.
            projections: float32 (bits,), the projections that the code was made from. Required with a code for an
                asymmetric score or rerank.
            features: float32 (width,), the features of the code's image. Required with a code for a rerank by
                features.
            fingerprint: Fingerprint of the code's code space; the collection's by default.
            **keywords: The fields of `SearchOptions`, one by one. They override those of `options`.

        Returns:
            The hits, nearest first, and how much of the collection they cover.

        Raises:
            InvalidRequest: If an argument is malformed or out of range.
            NotFound: If the collection or the key does not exist.
            CodeSpaceMismatch: If the code is of another code space than the collection.
            PartitionUnavailable: If a partition does not answer and `allow_partial` is off.
            DeadlineExceeded: If there is no answer within the timeout.
        """
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        query = wire.query_to_wire(image, code, key, projections, features)
        deadline = self._calls.deadline()
        if code is not None:
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search(collection, query, fingerprint, options), deadline)

    @shows_search_options
    def search_batch(
        self,
        *,
        collection: str,
        images: Sequence[Image] = (),
        codes: Sequence[bytes] = (),
        keys: Sequence[str] = (),
        options: SearchOptions | None = None,
        projections: Sequence[Floats] = (),
        features: Sequence[Floats] = (),
        fingerprint: str | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """Runs up to 1,024 queries in one scan, with the same options. See `search`.

        Args:
            images: Encoded image files' bytes, or their paths.
            codes: Codes of bits / 8 bytes each.
            keys: Keys of stored records.
            options: How to search.
            projections: One float32 (bits,) per code, or none.
            features: One float32 (width,) per code, or none.
            fingerprint: Fingerprint of the codes' code space; the collection's by default.
            **keywords: The fields of `SearchOptions`, one by one. They override those of `options`.

        Returns:
            One result per image, then per code, then per key.
        """
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        queries = queries_of(images, codes, keys, projections, features)
        deadline = self._calls.deadline()
        if len(codes):
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search_batch(collection, queries, fingerprint, options), deadline)

    def get(
        self, keys: Sequence[str], *, collection: str, consistency: str = "one", include_thumbnails: bool = False
    ) -> list[StoredRecord]:
        """Reads records by key.

        Args:
            keys: Up to 10,000 keys. A response has at most 28 MiB: a thousand records with thumbnails fit.
            consistency: "one" reads one replica, "quorum" a majority.
            include_thumbnails: Return each record's thumbnail.

        Returns:
            The records that exist, in the order of the keys.
        """
        return self._run(self._calls.get(keys, collection, consistency, include_thumbnails))

    def upsert(self, records: Iterable[Record], *, collection: str) -> int:
        """Stores records, durably. Inserts new keys and replaces existing records.

        Up to 10,000 records and 48 MiB go in one request, which stores all of its records, or none if one is
        invalid.

        Returns:
            The number of records stored.
        """
        given = listed("records", records)
        fingerprint = one_fingerprint(given)
        if fingerprint is None and has_codes(given):
            fingerprint = self._fingerprint(collection, self._calls.deadline())
        calls = self._calls.upserts(collection, given, fingerprint)
        return sum([self._run(call) for call in calls])

    def ingest(
        self,
        records: Iterable[Record] | Iterable[Sequence[Record]],
        *,
        collection: str,
        timeout: float | None = None,
    ) -> Iterator[Outcome]:
        """Streams records to the cluster.

        The stream is flow controlled: records are read no faster than the cluster stores them, and sent 256 at a
        time. If the coordinator fails, a new stream resends what was not acknowledged, provided that a coordinator
        answers within the client's timeout.

        Args:
            records: The records to store, or lists of records, each of which is sent as soon as it is read.
            timeout: Seconds for the whole stream; unlimited by default.

        Yields:
            One outcome per record, in order.

        Raises:
            Exception: An exception that `records` raises, or InvalidRequest for a record that cannot be sent, ends
                the stream. It is raised after the outcomes of the records before it.
        """
        fingerprint = self._fingerprint(collection, self._calls.deadline())
        failures: list[Exception] = []

        def requests() -> Iterator[pb.IngestRequest]:
            try:
                for batch in batches(records):
                    own = one_fingerprint(batch) or fingerprint
                    yield from self._calls.ingest_requests(batch, collection, own)
            except Exception as error:  # gRPC would hide it
                failures.append(error)

        pending = ResendBuffer(requests())
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        retry = Retry(deadline)
        try:
            while True:
                coordinator = self._coordinators.next()
                try:
                    with tracing.calling("Ingest") as metadata:
                        send = coordinator.stub.Ingest
                        left = seconds_until(deadline)
                        for response in send(pending.stream(), timeout=left, metadata=metadata):
                            retry.reset()
                            pending.acknowledge()
                            for outcome in response.outcomes:
                                yield wire.outcome_from_wire(outcome)
                    break
                except grpc.RpcError as failure:
                    error = self._calls.explain(failure, coordinator.address)
                if self._coordinators.failed(coordinator, error):
                    continue
                if not retry.failures:
                    retry.deadline = min(deadline, self._calls.deadline())
                retry.wait(error)
        finally:
            pending.close()
        if failures:
            raise failures[0]

    def delete(self, keys: Sequence[str], *, collection: str) -> int:
        """Deletes records by key.

        Returns:
            The number of records that existed; too low if a failed earlier attempt had already deleted some.
        """
        return self._run(self._calls.delete(keys, collection))

    def create_collection(
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
    ) -> Collection:
        """Creates a collection, by default in the code space of the cluster's encoder.

        Args:
            name: 1..128 letters, digits, ".", "_" and "-".
            bits: The width of codes that are made elsewhere.
            code_space: The code space of codes that are made elsewhere, instead of `bits`.
            index: "scan", or "mih" if most searches are for close neighbours.
            index_attributes: Attributes to index: those that filters use often.
            features: "int8" or "float16" to store features for reranking.
            feature_width: Values per feature vector, for codes that are made elsewhere.
            hash_file: The hash file that the codes were computed with; requires `code_space`.

        Raises:
            InvalidRequest: If an argument is malformed or out of range.
            AlreadyExists: If the collection exists.
        """
        indexing = Indexing(index, tuple(index_attributes), features, feature_width)
        return self._run(self._calls.create_collection(name, bits, code_space, indexing, hash_file))

    def get_collection(self, name: str) -> Collection:
        """Describes a collection. Raises NotFound."""
        return self._run(self._calls.get_collection(name))

    def get_hash_file(self, name: str) -> bytes:
        """Returns the collection's hash file, for an encoder's `encoder.hash`; empty if it has none."""
        return self._run(self._calls.get_hash_file(name))

    def list_collections(self) -> list[Collection]:
        """Lists the collections that the caller may see."""
        return self._run(self._calls.list_collections())

    def drop_collection(self, name: str) -> None:
        """Deletes a collection and its records. Raises NotFound."""
        self._run(self._calls.drop_collection(name))

    def drain(self, partition: int, *, undo: bool = False) -> int:
        """Moves all slots off a partition, for maintenance. Returns at once; `status` shows the progress.

        Args:
            partition: The partition's number, from 0.
            undo: Give the partition its share of the slots again.

        Returns:
            The number of slots that the partition still holds.
        """
        return self._run(self._calls.drain(partition, undo))

    def backup(
        self, collection: str, slots: SlotSet, since: Sequence[Mark] = ()
    ) -> Iterator[Head | list[VersionedRecord]]:
        """Reads one partition's records of these slots. Not retried: call it again for the missing slots.

        Args:
            slots: bool (1024,), the wanted slots.
            since: Marks of an earlier backup, to read only the changes since then.

        Yields:
            First the head, which names the slots that the partition has, then batches of records.
        """
        coordinator = self._coordinators.next()
        try:
            for part in coordinator.stub.Backup(wire.dump_request_to_wire(collection, slots, since)):
                yield from wire.dump_part_from_wire(part)
        except grpc.RpcError as failure:
            error = self._calls.explain(failure, coordinator.address)
            self._coordinators.failed(coordinator, error)
            raise error from None

    def restore(self, records: Sequence[VersionedRecord], collection: str, fingerprint: str, features: str) -> int:
        """Stores up to 10,000 records and deletions of a backup as new writes. Returns their number."""
        return self._run(self._calls.restore(records, collection, fingerprint, features))

    def status(self) -> ClusterStatus:
        """Describes the cluster: its partitions, replicas, encoder, collections and pending moves."""
        return self._run(self._calls.status())

    def _fingerprint(self, collection: str, deadline: float) -> str:
        if known := self._calls.fingerprint(check_collection_name(collection)):
            return known
        return (self._run(self._calls.get_collection(collection), deadline)).code_space.fingerprint

    def _run(self, call: Call[Answer], deadline: float | None = None) -> Answer:
        with tracing.calling(call.name) as metadata:
            return self._with_retries(call, deadline or self._calls.deadline(), metadata)

    def _with_retries(self, call: Call[Answer], deadline: float, metadata: tracing.Metadata | None) -> Answer:
        retry = Retry(deadline, attempts=MAX_ATTEMPTS)
        while True:
            coordinator = self._coordinators.next()
            remaining = deadline - time.monotonic()
            try:
                send = getattr(coordinator.stub, call.name)
                return call.read(send(call.request, timeout=remaining, metadata=metadata))
            except grpc.RpcError as failure:
                error = self._calls.explain(failure, coordinator.address)
                is_harmless = call.is_repeatable or was_never_sent(failure)
            if self._coordinators.failed(coordinator, error) and is_harmless:
                continue
            if not call.is_repeatable:
                raise error
            retry.wait(error)
