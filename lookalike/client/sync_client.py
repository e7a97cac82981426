"""Owns `Client`, the SDK for programs that wait for each answer.

Generated from async_client.py by scripts/unasync.py (`make client`): change that file, not this one."""

from __future__ import annotations

import collections
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

from lookalike import wire
from lookalike.client.arguments import batches, has_codes, key_batches, listed, one_fingerprint
from lookalike.client.arrays import Attributes, Codes, IngestReport, Keys, code_columns, join, split
from lookalike.client.calls import DEFAULT_TIMEOUT_SECONDS, Calls, warn
from lookalike.client.column_page import ColumnPage
from lookalike.client.endpoints import Coordinators
from lookalike.client.prefetch import Prefetch
from lookalike.client.sync_ingest import IngestStream
from lookalike.client.sync_search import Search
from lookalike.cluster.columns import CodeColumns
from lookalike.model.filters import GivenFilter
from lookalike.model.records import (
    DEFAULT_FACETS,
    DEFAULT_PAGE,
    FIRST_PAGES,
    MAX_PAGE_RECORDS,
    CountResult,
    FacetsResult,
    Outcome,
    Page,
    Record,
    StoredRecord,
    check_limit,
)
from lookalike.model.results import StoredRecords
from lookalike.transport.tls import Tls
from lookalike.v1 import search_pb2 as pb


class Client(Search):
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
        super().__init__(Calls(timeout), Coordinators(grpc, address, api_key, tls))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Later calls raise InvalidRequest."""
        for channel in self._coordinators.close():
            channel.close()

    def get(
        self,
        keys: Sequence[str],
        *,
        collection: str,
        consistency: str = "one",
        include_thumbnails: bool = False,
        timeout: float | None = None,
    ) -> StoredRecords:
        """Reads records by key.

        Args:
            keys: The keys. Up to 10,000 are read by one request. A response has at most 28 MiB: a thousand records
                with thumbnails fit.
            consistency: "one" reads one replica, "quorum" a majority.
            include_thumbnails: Return each record's thumbnail.
            timeout: Seconds that the whole call may take; by default, each request may take the client's timeout.

        Returns:
            The records that exist, in the order of the keys: a list, which also gives arrays.
        """
        limit = self._calls.limit(timeout)
        parts = key_batches(keys)
        calls = [self._calls.get(part, collection, consistency, include_thumbnails) for part in parts]
        return StoredRecords([record for call in calls for record in self._run(call, limit)])

    def exists(
        self, keys: Sequence[str], *, collection: str, consistency: str = "one", timeout: float | None = None
    ) -> list[bool]:
        """Says for each key whether it has a record. Up to 10,000 keys go in one request.

        Args:
            keys: The keys.
            consistency: "one" reads one replica, "quorum" a majority.
            timeout: Seconds that the whole call may take; by default, each request may take the client's timeout.
        """
        limit = self._calls.limit(timeout)
        calls = [self._calls.exists(part, collection, consistency) for part in key_batches(keys)]
        return [found for call in calls for found in self._run(call, limit)]

    def count(
        self,
        *,
        collection: str,
        filter: GivenFilter = None,
        allow_partial: bool = False,
        consistency: str = "one",
        timeout: float | None = None,
    ) -> CountResult:
        """Counts the records that match a filter, exactly.

        Args:
            filter: Count only matching records: a JSON document such as `{"label": "cat"}` (docs/FILTERS.md), or a
                filter of `lookalike.filters`. A field that no record has is not an error: the answer warns of it
                or, where it cannot, `lookalike.errors.UnknownFieldWarning` is issued.
            allow_partial: Count in the partitions that answer, and name the others in `coverage`. By default, a
                missing partition raises PartitionUnavailable.
            consistency: "one" asks one replica of each partition. "quorum" includes every write acknowledged
                before; if writes are acknowledged by fewer than all replicas, it reads all matching records.
            timeout: Seconds that the call may take, retries included; the client's by default.
        """
        call = self._calls.count(collection, filter, allow_partial, consistency)
        return self._run(call, self._calls.deadline(timeout))

    def scroll(
        self,
        *,
        collection: str,
        filter: GivenFilter = None,
        include_attributes: bool = True,
        include_codes: bool = False,
        include_thumbnails: bool = False,
        limit: int | None = None,
        page_size: int | None = None,
        consistency: str = "one",
        cursor: str = "",
        timeout: float | None = None,
    ) -> Iterator[StoredRecord]:
        """Reads all records that match a filter, in the order of their ids (the hash of the key).

        A record that exists and matches, and is not changed during the whole scroll, is returned exactly once. A
        record that is written, changed or deleted in the meantime is returned at most once. The next page is
        fetched while the records of the current one are used. `scroll_columns` is faster.

        Args:
            filter: As in `count`.
            include_attributes: Return each record's attributes.
            include_codes: Return each record's code.
            include_thumbnails: Return each record's thumbnail.
            limit: Return at most this many records; all by default.
            page_size: Records per request, 1..65,536; by default few at first, then more.
            consistency: "one" reads one replica, "quorum" a majority.
            cursor: Where to start; see `scroll_page`.
            timeout: Seconds that each request may take, retries included; the client's timeout by default.
        """
        pages = self.scroll_columns(
            collection=collection, filter=filter, include_attributes=include_attributes,
            include_codes=include_codes, include_thumbnails=include_thumbnails, limit=limit, page_size=page_size,
            consistency=consistency, cursor=cursor, timeout=timeout,
        )  # fmt: skip
        for page in pages:
            yield from page

    def scroll_columns(
        self,
        *,
        collection: str,
        filter: GivenFilter = None,
        include_attributes: bool = True,
        include_codes: bool = False,
        include_thumbnails: bool = False,
        limit: int | None = None,
        page_size: int | None = None,
        consistency: str = "one",
        cursor: str = "",
        timeout: float | None = None,
    ) -> Iterator[ColumnPage]:
        """Reads what `scroll` reads, as pages of columns: lists and arrays instead of an object for each record.
        The arguments are those of `scroll`."""
        if limit is not None:
            check_limit(limit, sys.maxsize)
        if page_size is not None:
            check_limit(page_size, MAX_PAGE_RECORDS)
        sizes = itertools.chain(FIRST_PAGES, itertools.repeat(MAX_PAGE_RECORDS))
        left = sys.maxsize if limit is None else limit
        with Prefetch[ColumnPage]() as ahead:

            def fetch(cursor: str) -> None:
                call = self._calls.scroll(
                    collection, filter, include_attributes, include_codes, include_thumbnails,
                    min(left, page_size or next(sizes)), cursor, consistency,
                )  # fmt: skip
                ahead.start(lambda: self._run(call, self._calls.deadline(timeout)))

            fetch(cursor)
            while True:
                page = ahead.result()
                warn(page.warnings)
                left -= len(page)
                is_last = not page.cursor or left <= 0
                if not is_last:
                    fetch(page.cursor)
                yield page
                if is_last:
                    return

    def scroll_page(
        self,
        *,
        collection: str,
        filter: GivenFilter = None,
        include_attributes: bool = True,
        include_codes: bool = False,
        include_thumbnails: bool = False,
        limit: int = DEFAULT_PAGE,
        consistency: str = "one",
        cursor: str = "",
        timeout: float | None = None,
    ) -> Page:
        """Reads one page of a scroll. See `scroll`.

        Args:
            limit: Records per page, 1..65,536. A page may be shorter: the scroll is over when its cursor is empty.
            cursor: The cursor of the page before; empty for the first page. It stays valid, for any client and any
                coordinator of the cluster.
            timeout: Seconds that the call may take, retries included; the client's by default.
        """
        page = self._run(
            self._calls.scroll(
                collection, filter, include_attributes, include_codes, include_thumbnails, limit, cursor,
                consistency,
            ),
            self._calls.deadline(timeout),
        )  # fmt: skip
        return Page(list(page), page.cursor, page.warnings)

    def facets(
        self,
        attribute: str,
        *,
        collection: str,
        filter: GivenFilter = None,
        limit: int = DEFAULT_FACETS,
        allow_partial: bool = False,
        timeout: float | None = None,
    ) -> FacetsResult:
        """Counts the values of an attribute, exactly.

        Args:
            attribute: The attribute. A dot selects a field of an object ("camera.maker").
            filter: As in `count`.
            limit: Values to return, 1..100,000: the most frequent ones.
            allow_partial: As in `count`.
            timeout: Seconds that the call may take, retries included; the client's by default.

        Raises:
            InvalidRequest: If the attribute has over 100,000 values among the matching records.
        """
        call = self._calls.facets(attribute, collection, filter, limit, allow_partial)
        return self._run(call, self._calls.deadline(timeout))

    def upsert(self, records: Iterable[Record], *, collection: str, timeout: float | None = None) -> int:
        """Stores records, durably. Inserts new keys and replaces existing records as a whole: attributes and a
        thumbnail that the new record does not have are gone. `set_attributes` changes attributes alone.

        Up to 10,000 records and 48 MiB go in one request, which stores all of its records, or none if one is
        invalid.

        A record with `if_version` is stored only if the stored one has that version. All conditions are checked
        before anything is stored. If another client writes one of the records in between, the others may be
        stored nevertheless. A call with conditions is not retried: if its outcome is unknown, read the records
        again.

        Args:
            records: The records.
            timeout: Seconds that the whole call may take; by default, each request may take the client's timeout.

        Returns:
            The number of records stored.

        Raises:
            VersionConflict: If a stored record has another version than `if_version`.
        """
        limit = self._calls.limit(timeout)
        given = listed("records", records)
        fingerprint = one_fingerprint(given)
        if fingerprint is None and has_codes(given):
            fingerprint = self._fingerprint(collection, limit)
        calls = self._calls.upserts(collection, given, fingerprint)
        return sum([self._run(call, limit) for call in calls])

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
        fingerprint = self._fingerprint(collection, self._calls.limit(timeout))

        def requests() -> Iterator[pb.IngestRequest]:
            for batch in batches(records):
                own = one_fingerprint(batch) or fingerprint
                yield from self._calls.ingest_requests(batch, collection, own)

        stream = IngestStream(self._coordinators, self._calls, timeout)
        for response in stream.responses(requests()):
            for outcome in response.outcomes:
                yield wire.outcome_from_wire(outcome)

    def ingest_arrays(
        self,
        keys: Keys,
        codes: Codes,
        attributes: Attributes = None,
        *,
        collection: str,
        fingerprint: str | None = None,
        timeout: float | None = None,
    ) -> IngestReport:
        """Stores many records with codes, several times as fast as `ingest`.

        Args:
            keys: n strings: a sequence, a NumPy or an Arrow array.
            codes: n codes: uint8 (n, bits/8), a sequence of bytes, or an Arrow array of binary values.
            attributes: n mappings; or a pandas DataFrame, an Arrow table or a mapping of names to columns of n
                values each. Null values are left out.
            fingerprint: The code space of the codes; the collection's by default.
            timeout: Seconds for the whole call; unlimited by default.

        Returns:
            How many records are stored, and why the others are not.

        Raises:
            InvalidRequest: If a column is malformed, or the collection stores features.
        """
        parts = split(code_columns(keys, codes, attributes))
        sent = self.ingest_columns(parts, collection=collection, fingerprint=fingerprint, timeout=timeout)
        return join(list(sent))

    def ingest_columns(
        self,
        batches: Iterable[CodeColumns],
        *,
        collection: str,
        fingerprint: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[IngestReport]:
        """Streams columns of at most 16,384 records each to the cluster. Yields a report on each, in order."""
        own = fingerprint or self._fingerprint(collection, self._calls.limit(timeout))
        counts: collections.deque[int] = collections.deque()

        def requests() -> Iterator[pb.IngestRequest]:
            for columns in batches:
                counts.append(len(columns))
                yield self._calls.ingest_columns(columns, collection, own)

        stream = IngestStream(self._coordinators, self._calls, timeout)
        for response in stream.responses(requests()):
            failed = map(wire.outcome_from_wire, response.outcomes)
            yield IngestReport.of(counts.popleft(), dict(zip(response.rows, failed, strict=True)))

    def delete(
        self,
        keys: Sequence[str],
        *,
        collection: str,
        if_versions: Sequence[int] = (),
        timeout: float | None = None,
    ) -> int:
        """Deletes records by key.

        Args:
            keys: At most 10,000 keys.
            if_versions: One per key, or none: delete the records only if they have these versions.
            timeout: Seconds that the call may take, retries included; the client's by default.

        Returns:
            The number of records that existed; too low if a failed earlier attempt had already deleted some.

        Raises:
            VersionConflict: If a record has another version than its `if_versions`.
        """
        return self._run(self._calls.delete(keys, collection, if_versions), self._calls.deadline(timeout))

    def delete_by_filter(self, filter: GivenFilter, *, collection: str, timeout: float | None = None) -> int:
        """Deletes the records that match a filter, page by page. Repeat an interrupted call: it is harmless.

        Args:
            filter: As in `count`.
            timeout: Seconds that the whole call may take; by default, each request may take the client's timeout.

        Returns:
            The number of records deleted; too low if a failed earlier attempt had already deleted some.
        """
        limit = self._calls.limit(timeout)
        deleted, cursor = self._run(self._calls.delete_by_filter(collection, filter, ""), limit)
        while cursor:
            count, cursor = self._run(self._calls.delete_by_filter(collection, filter, cursor), limit)
            deleted += count
        return deleted

    def set_attributes(
        self,
        attributes: Mapping[str, Any],
        *,
        collection: str,
        keys: Sequence[str] = (),
        filter: GivenFilter = None,
        if_versions: Sequence[int] = (),
        timeout: float | None = None,
    ) -> int:
        """Sets some attributes of records. Their other attributes, codes, features and thumbnails stay as they
        are.

        Args:
            attributes: The attributes to set, each as a whole.
            keys: The records to change, at most 10,000 in one request. Keys that do not exist are ignored.
            filter: Change the records that match this filter instead, page by page.
            if_versions: With keys: one per key, or none: change the records only if they have these versions.
            timeout: Seconds that the whole call may take; by default, each request may take the client's timeout.

        Returns:
            The number of records changed, including those that had these attributes before.

        Raises:
            VersionConflict: If a record has another version than its `if_versions`.
        """
        return self.change_attributes(
            attributes,
            (),
            collection=collection,
            keys=keys,
            filter=filter,
            if_versions=if_versions,
            timeout=timeout,
        )

    def remove_attributes(
        self,
        names: Sequence[str],
        *,
        collection: str,
        keys: Sequence[str] = (),
        filter: GivenFilter = None,
        if_versions: Sequence[int] = (),
        timeout: float | None = None,
    ) -> int:
        """Removes some attributes of records. See `set_attributes`."""
        return self.change_attributes(
            {}, names, collection=collection, keys=keys, filter=filter, if_versions=if_versions, timeout=timeout
        )

    def change_attributes(
        self,
        attributes: Mapping[str, Any],
        remove: Sequence[str],
        *,
        collection: str,
        keys: Sequence[str] = (),
        filter: GivenFilter = None,
        if_versions: Sequence[int] = (),
        timeout: float | None = None,
    ) -> int:
        """Sets some attributes of records and removes others, in one write. See `set_attributes`."""
        limit = self._calls.limit(timeout)
        changed = 0
        if if_versions:
            call = self._calls.set_attributes(collection, keys, filter, attributes, remove, "", if_versions)
            return (self._run(call, limit))[0]
        if filter is None:
            for part in key_batches(keys):
                call = self._calls.set_attributes(collection, part, None, attributes, remove, "")
                changed += (self._run(call, limit))[0]
            return changed
        call = self._calls.set_attributes(collection, keys, filter, attributes, remove, "")
        changed, cursor = self._run(call, limit)
        while cursor:
            call = self._calls.set_attributes(collection, (), filter, attributes, remove, cursor)
            count, cursor = self._run(call, limit)
            changed += count
        return changed
