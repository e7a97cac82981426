"""Owns how a batch job's records reach the cluster: over ingest streams, until each is stored or refused for
good."""

from __future__ import annotations

import collections
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from lookalike.client.sync_client import Client
from lookalike.model.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    LookalikeError,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.model.records import Record

_STREAM_SECONDS = 120.0
# Less would end calls to a cluster that is only slow.
_LEAST_STREAM_SECONDS = 10.0
_BACKOFF_MAX_SECONDS = 5.0
_AGAIN_AT_ONCE = 10_000
_COUNTED_AT_ONCE = 256
_TRANSIENT = (PartitionUnavailable, Overloaded, DeadlineExceeded, Cancelled, Internal)

Refusal = Callable[[Record, LookalikeError], None]


def store(
    client: Client, collection: str, records: Iterable[Record], patience_seconds: float, refused: Refusal
) -> int:
    """Send records until each is stored or refused for good. Returns how many are stored. refused: told of the
    others. Raises the cluster's error once no record was taken for `patience_seconds`."""
    waiting = {record.key: record for record in records}
    total, refusals = len(waiting), 0
    timeout = min(_STREAM_SECONDS, max(_LEAST_STREAM_SECONDS, patience_seconds))
    deadline = time.monotonic() + patience_seconds
    attempt = 0
    while waiting:
        trouble: LookalikeError | None = None
        try:
            stream = client.ingest(list(waiting.values()), collection=collection, timeout=timeout)
            for outcome in stream:
                if isinstance(outcome.error, _TRANSIENT):
                    trouble = outcome.error
                    continue
                record = waiting.pop(outcome.key)
                deadline = time.monotonic() + patience_seconds
                if isinstance(outcome.error, LookalikeError):
                    refusals += 1
                    refused(record, outcome.error)
        except _TRANSIENT as error:
            trouble = error
        if trouble is not None:
            attempt += 1
            if time.monotonic() >= deadline:
                raise _given_up(trouble, patience_seconds)
            pause = min(_BACKOFF_MAX_SECONDS, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
            time.sleep(max(pause, (trouble.retry_after_ms or 0) / 1000))
    return total - refusals


def _given_up(error: LookalikeError, patience_seconds: float) -> LookalikeError:
    given_up = type(error)(
        f"patience: the cluster took no record for {patience_seconds:g} s ({error.message}); start the job again,"
        " or with more --patience"
    )
    given_up.request_id = error.request_id
    return given_up


def stream(
    client: Client, collection: str, records: Iterable[Record], patience_seconds: float, refused: Refusal
) -> Iterator[int]:
    """As `store`, for any number of records, over one stream. Yields how many more are stored, now and then. Of
    records with one key the last one stays."""
    sent: collections.deque[Record] = collections.deque()
    again = Again()
    sending = threading.Lock()

    def noted() -> Iterator[Record]:
        for record in records:
            with sending:
                sent.append(record)
            yield record

    def store_again() -> int:
        # Nothing new is sent meanwhile: it might be the earlier one of two with its key.
        with sending:
            return store(client, collection, again.take(sent), patience_seconds, refused)

    stored = 0
    for outcome in client.ingest(noted(), collection=collection):
        record = sent.popleft()
        if isinstance(outcome.error, _TRANSIENT):
            stored += again.add(record)
        elif isinstance(outcome.error, LookalikeError):
            refused(record, outcome.error)
        else:
            stored += 1 + again.outdone_by(record)
            if stored >= _COUNTED_AT_ONCE:
                yield stored
                stored = 0
        if again.is_due(patience_seconds):
            yield store_again()
    yield stored
    yield store_again()


class Again:
    """The records that are to be sent again. One that a later record of its key has outdone is not: sent now, it
    would be the newer. It counts as stored, as it does when both are stored in their turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._records: dict[str, Record] = {}
        self._clock = clock
        self._since = clock()

    def add(self, record: Record) -> int:
        """Returns how many are outdone."""
        outdone = 0 if self._records.pop(record.key, None) is None else 1
        self._records[record.key] = record
        return outdone

    def outdone_by(self, record: Record) -> int:
        """A later record, which is stored. Returns how many are outdone."""
        if not self._records:
            self._since = self._clock()
        return 0 if self._records.pop(record.key, None) is None else 1

    def is_due(self, patience_seconds: float) -> bool:
        """Whether they are many, or it is so long ago that none had to wait."""
        return len(self._records) >= _AGAIN_AT_ONCE or (
            bool(self._records) and self._clock() - self._since >= patience_seconds
        )

    def take(self, unanswered: Collection[Record] = ()) -> list[Record]:
        """Those to be sent now: all that none of the unanswered, which are later, can outdo."""
        later = {record.key for record in unanswered}
        taken = [record for record in self._records.values() if record.key not in later]
        for record in taken:
            del self._records[record.key]
        self._since = self._clock()
        return taken
