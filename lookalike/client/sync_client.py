"""Owns `Client`, the SDK for programs that wait for each answer. `AsyncClient` has the same calls.

Failures raise the classes of `lookalike.errors`. A call that found a server or partition missing is tried
again for some seconds, within its timeout, if a second try does no harm: all but create and drop, which say
whether something was there. A delete that was tried again counts what its last try found."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from lookalike import wire
from lookalike.client.calls import (
    DEFAULT_TIMEOUT_SECONDS,
    Answer,
    Call,
    Calls,
    Floats,
    Image,
    has_codes,
    listed,
    one_fingerprint,
    portions,
    queries_of,
    seconds_until,
    wait_seconds,
    was_never_sent,
)
from lookalike.client.endpoints import Coordinators
from lookalike.client.resend_buffer import ResendBuffer
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.features import NONE
from lookalike.model.indexing import SCAN, Indexing
from lookalike.model.records import (
    DEFAULT_OVERSAMPLING,
    ClusterStatus,
    Collection,
    Outcome,
    Record,
    SearchResult,
    StoredRecord,
    VersionedRecord,
    check_collection_name,
)
from lookalike.transport import tracing
from lookalike.transport.tls import Tls
from lookalike.v1 import search_pb2 as pb


class Client:
    """A connection to a cluster: `Client("127.0.0.1:7700")`. Safe to share between threads.

    address: a coordinator's HOST:PORT, or several, as a list or with commas between, that take turns; one that
    does not answer is left out, and its calls go to the next. So do the addresses of one name.
    timeout: seconds that a call may take in all, retries included. api_key: what the cluster asks for if it has
    keys. tls: True to trust whom the system trusts, or a `Tls` that says whom and what to show."""

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._coordinators.end():
            channel.close()

    def search(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: bytes | None = None,
        key: str | None = None,
        k: int = 10,
        max_distance: int | None = None,
        filter: Mapping[str, Any] | None = None,
        include_attributes: bool = True,
        allow_partial: bool = False,
        rerank: str = "none",
        consistency: str = "one",
        score: str = "hamming",
        oversampling: int = DEFAULT_OVERSAMPLING,
        projections: Floats | None = None,
        features: Floats | None = None,
        fingerprint: str | None = None,
    ) -> SearchResult:
        """The k nearest records to an image (bytes or a path), a code, or a stored record's key.

        max_distance: bits; leaves out what is further away. filter: see `lookalike.filters`.
        allow_partial: take an answer that some partitions are missing from (see `coverage`) instead of
        PartitionUnavailable. fingerprint: of the code's code space; the collection's by default.
        score: "hamming", or "asymmetric" to weigh each bit by how sure the image is of it. rerank: "none", or the
        k * oversampling nearest ordered again by "asymmetric" score, or by the "features" that the collection
        keeps. With a code these need its projections (float32 (bits,)) or features (float32 (width,)).
        Raises InvalidRequest, NotFound, CodeSpaceMismatch, PartitionUnavailable, DeadlineExceeded."""
        options = wire.options_to_wire(
            k=k, max_distance=max_distance, filter=filter, include_attributes=include_attributes,
            allow_partial=allow_partial, rerank=rerank, consistency=consistency, score=score,
            oversampling=oversampling,
        )  # fmt: skip
        query = wire.query_to_wire(image, code, key, projections, features)
        deadline = self._calls.deadline()
        if code is not None:
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search(collection, query, fingerprint, options), deadline)

    def search_batch(
        self,
        *,
        collection: str,
        images: Sequence[Image] = (),
        codes: Sequence[bytes] = (),
        keys: Sequence[str] = (),
        k: int = 10,
        max_distance: int | None = None,
        filter: Mapping[str, Any] | None = None,
        include_attributes: bool = True,
        allow_partial: bool = False,
        rerank: str = "none",
        consistency: str = "one",
        score: str = "hamming",
        oversampling: int = DEFAULT_OVERSAMPLING,
        projections: Sequence[Floats] = (),
        features: Sequence[Floats] = (),
        fingerprint: str | None = None,
    ) -> list[SearchResult]:
        """As `search`, for up to 1,024 queries in one scan: a result per image, then per code, then per key."""
        options = wire.options_to_wire(
            k=k, max_distance=max_distance, filter=filter, include_attributes=include_attributes,
            allow_partial=allow_partial, rerank=rerank, consistency=consistency, score=score,
            oversampling=oversampling,
        )  # fmt: skip
        queries = queries_of(images, codes, keys, projections, features)
        deadline = self._calls.deadline()
        if len(codes):
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search_batch(collection, queries, fingerprint, options), deadline)

    def get(
        self,
        keys: Sequence[str],
        *,
        collection: str,
        consistency: str = "one",
        include_thumbnails: bool = False,
    ) -> list[StoredRecord]:
        """The records that exist among `keys`, in their order. An answer holds 28 MiB: a thousand keys with
        thumbnails always fit."""
        return self._run(self._calls.get(keys, collection, consistency, include_thumbnails))

    def upsert(self, records: Iterable[Record], *, collection: str) -> int:
        """Store records; returns how many are stored, durably. Up to 10,000 records and 48 MiB go in one
        request, which stores all of them, or none if one is invalid."""
        given = listed("records", records)
        fingerprint = one_fingerprint(given)
        if fingerprint is None and has_codes(given):
            fingerprint = self._fingerprint(collection, self._calls.deadline())
        calls = self._calls.upserts(collection, given, fingerprint)
        return sum(self._run(call) for call in calls)

    def ingest(
        self,
        records: Iterable[Record] | Iterable[Sequence[Record]],
        *,
        collection: str,
        timeout: float | None = None,
    ) -> Iterator[Outcome]:
        """Stream records to the cluster and yield an outcome for each, in order. The stream is flow controlled:
        `records` is read no faster than the cluster stores, and sent 256 at a time; a list of records that
        `records` yields is sent at once. When the coordinator goes
        away, another stream goes on with what was not answered, if one comes back within the client's timeout.
        What `records` raises, or a record that cannot be sent (see `Record`), ends the stream and is raised after
        the outcomes before it."""
        fingerprint = self._fingerprint(collection, self._calls.deadline())

        failures: list[Exception] = []

        def requests() -> Iterator[pb.IngestRequest]:
            try:
                for portion in portions(records):
                    own = one_fingerprint(portion) or fingerprint
                    yield from self._calls.ingest_requests(portion, collection, own)
            except Exception as error:  # gRPC would bury it in its own thread
                failures.append(error)

        unanswered = ResendBuffer(requests())
        deadline = give_up = math.inf if timeout is None else time.monotonic() + timeout
        attempt = 0
        while True:
            coordinator = self._coordinators.next()
            try:
                with tracing.calling("Ingest") as metadata:
                    stream = unanswered.stream()
                    for answer in coordinator.stub.Ingest(
                        stream, timeout=seconds_until(deadline), metadata=metadata
                    ):
                        attempt = 0
                        unanswered.answered()
                        yield from (wire.outcome_from_wire(outcome) for outcome in answer.outcomes)
                break
            except grpc.RpcError as failure:
                error = self._calls.explain(failure, coordinator.address)
            if self._coordinators.failed(coordinator, error):
                continue
            if attempt == 0:
                give_up = min(deadline, self._calls.deadline())
            wait = wait_seconds(error, attempt := attempt + 1, give_up - time.monotonic(), attempts=None)
            if wait is None:
                raise error
            time.sleep(wait)
        if failures:
            raise failures[0]

    def delete(self, keys: Sequence[str], *, collection: str) -> int:
        """Delete records. Returns how many existed; too few if a try before, that was thought to have failed, was
        done after all."""
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
        """Create a collection in the encoder's code space, or for codes made elsewhere of `bits` bits or of
        `code_space`. index: "scan", or "mih" where most searches are for close neighbours. index_attributes: the
        attributes that filters name often. features: "int8" or "float16" to keep them for reranking; for codes
        made elsewhere with their width. hash_file: kept with a `code_space`. Raises AlreadyExists."""
        indexing = Indexing(index, tuple(index_attributes), features, feature_width)
        return self._run(self._calls.create_collection(name, bits, code_space, indexing, hash_file))

    def get_collection(self, name: str) -> Collection:
        return self._run(self._calls.get_collection(name))

    def get_hash_file(self, name: str) -> bytes:
        """The file with which an encoder (`encoder.hash`) makes codes of this collection; empty if it keeps
        none."""
        return self._run(self._calls.get_hash_file(name))

    def list_collections(self) -> list[Collection]:
        return self._run(self._calls.list_collections())

    def drop_collection(self, name: str) -> None:
        """Delete a collection and its records. Raises NotFound."""
        self._run(self._calls.drop_collection(name))

    def drain(self, partition: int, *, undo: bool = False) -> int:
        """Have a partition hand over all that it holds, for maintenance; undo: let it have its share again.
        Returns at once, with the slots that it still holds; `status` tells how far it is."""
        return self._run(self._calls.drain(partition, undo))

    def backup(
        self, collection: str, slots: SlotSet, since: Sequence[Mark] = ()
    ) -> Iterator[Head | list[VersionedRecord]]:
        """What one partition has of these slots: first the head, then its records. Not tried again: ask for all
        that is missing. See `lookalike.backup`."""
        coordinator = self._coordinators.next()
        try:
            for part in coordinator.stub.Backup(wire.dump_request_to_wire(collection, slots, since)):
                yield from wire.dump_part_from_wire(part)
        except grpc.RpcError as failure:
            error = self._calls.explain(failure, coordinator.address)
            self._coordinators.failed(coordinator, error)
            raise error from None

    def restore(self, records: Sequence[VersionedRecord], collection: str, fingerprint: str, features: str) -> int:
        """Store up to 10,000 records and deletions of a backup as new writes. Returns how many."""
        return self._run(self._calls.restore(records, collection, fingerprint, features))

    def status(self) -> ClusterStatus:
        return self._run(self._calls.status())

    def _fingerprint(self, collection: str, deadline: float) -> str:
        if known := self._calls.fingerprint(check_collection_name(collection)):
            return known
        return self._run(self._calls.get_collection(collection), deadline).code_space.fingerprint

    def _run(self, call: Call[Answer], deadline: float | None = None) -> Answer:
        with tracing.calling(call.name) as metadata:
            return self._repeated(call, deadline or self._calls.deadline(), metadata)

    def _repeated(self, call: Call[Answer], deadline: float, metadata: tracing.Metadata | None) -> Answer:
        attempt = 0
        while True:
            coordinator = self._coordinators.next()
            remaining = deadline - time.monotonic()
            try:
                return call.read(
                    getattr(coordinator.stub, call.name)(call.request, timeout=remaining, metadata=metadata)
                )
            except grpc.RpcError as failure:
                error = self._calls.explain(failure, coordinator.address)
                is_harmless = call.is_repeatable or was_never_sent(failure)
            if self._coordinators.failed(coordinator, error) and is_harmless:
                continue
            wait = wait_seconds(error, attempt := attempt + 1, deadline - time.monotonic())
            if wait is None or not call.is_repeatable:
                raise error
            time.sleep(wait)
