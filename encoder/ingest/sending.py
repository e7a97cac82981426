"""Owns how a batch job sends its records to the cluster: over one ingest stream, until each is stored or refused
for good."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future

import numpy as np

from lookalike.client.sync_client import Client
from lookalike.cluster.columns import CodeColumns
from lookalike.model.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    LookalikeError,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.model.records import Record, parse_attributes
from lookalike.transport.retry import Backoff

_STREAM_SECONDS = 120.0
# A shorter limit would end calls to a cluster that is merely slow.
_MIN_STREAM_SECONDS = 10.0
_BACKOFF_MAX_SECONDS = 5.0
_RETRY_AT = 10_000
_COUNTED_AT_ONCE = 256
_POLL_SECONDS = 0.5
_TRANSIENT = (PartitionUnavailable, Overloaded, DeadlineExceeded, Cancelled, Internal)

Batch = Sequence[Record]
Refusal = Callable[[Record, LookalikeError], None]


def send(
    client: Client,
    collection: str,
    batches: Iterable[Batch],
    patience_seconds: float,
    refused: Refusal,
    retry_at: int = _RETRY_AT,
) -> Iterator[int]:
    """Sends records over one stream until each is stored or refused for good. Of several records with the same
    key, the last one is kept.

    Args:
        client: A client of the cluster.
        collection: The name of the collection.
        batches: The records. Each batch is sent as soon as it is available; a thread of gRPC reads the batches.
        patience_seconds: How long to retry while the cluster accepts no record.
        refused: Called with each record that the cluster refuses for good, and the reason.
        retry_at: When this many records have failed, they are sent again without waiting for the end of `batches`.

    Yields:
        The number of records stored since the previous yield, every few hundred records.

    Raises:
        LookalikeError: The cluster's last error, if the cluster accepted no record for `patience_seconds`.
    """
    unanswered: collections.deque[Record] = collections.deque()
    retries = RetryQueue()
    sending = threading.Lock()

    def noted() -> Iterator[Batch]:
        for batch in batches:
            with sending:
                unanswered.extend(batch)
            yield batch

    def retry() -> int:
        # No new record is sent in the meantime: an older record with the same key might overwrite it.
        with sending:
            return resend(client, collection, retries.take(unanswered), patience_seconds, refused)

    stored = 0
    for outcome in client.ingest(noted(), collection=collection):
        record = unanswered.popleft()
        if isinstance(outcome.error, _TRANSIENT):
            stored += retries.add(record)
        elif isinstance(outcome.error, LookalikeError):
            refused(record, outcome.error)
        else:
            stored += 1 + retries.superseded_by(record)
        if stored >= _COUNTED_AT_ONCE or (stored and not unanswered):
            yield stored
            stored = 0
        if retries.is_due(patience_seconds, retry_at):
            yield retry()
    yield stored
    yield retry()


def send_columns(
    client: Client, collection: str, batches: Iterator[CodeColumns], patience_seconds: float, refused: Refusal
) -> Iterator[int]:
    """Sends records like `send`, but as columns, with one message for each batch.

    Args:
        client: A client of the cluster.
        collection: The name of the collection.
        batches: The records.
        patience_seconds: How long to retry while the cluster accepts no record.
        refused: Called with each record that the cluster refuses for good, and the reason.

    Yields:
        How many more records are stored.

    Raises:
        LookalikeError: The cluster's error, once it accepted no record for `patience_seconds`.
    """
    failed: dict[str, Record] = {}
    is_first = True
    while failed or is_first:
        yield resend(client, collection, failed.values(), patience_seconds, refused)
        failed.clear()
        is_first = False
        sent: collections.deque[CodeColumns] = collections.deque()

        def until_one_fails(sent: collections.deque[CodeColumns] = sent) -> Iterator[CodeColumns]:
            # After a failure nothing new is sent: the record that failed must not overwrite a later one.
            while not failed and (columns := next(batches, None)) is not None:
                sent.append(columns)
                yield columns

        for report in client.ingest_columns(until_one_fails(), collection=collection):
            columns = sent.popleft()
            stored = report.stored
            if failed:
                later = failed.keys() & columns.keys.strings()
                stored += len(later)
                for key in later:
                    del failed[key]
            for row, error in report.errors.items():
                record = _record_of(columns, row)
                if isinstance(error, _TRANSIENT):
                    failed[record.key] = record
                elif isinstance(error, LookalikeError):
                    refused(record, error)
            yield stored


def _record_of(columns: CodeColumns, row: int) -> Record:
    one = columns.take(np.array([row]))
    (key,), (text,) = one.keys.strings(), one.attributes.strings()
    return Record(key, code=one.codes[0].tobytes(), attributes=parse_attributes(text))


def resend(
    client: Client, collection: str, records: Iterable[Record], patience_seconds: float, refused: Refusal
) -> int:
    """Sends records with different keys repeatedly, with backoff, until each is stored or refused for good.

    Args:
        client: A client of the cluster.
        collection: The name of the collection.
        records: The records; no two have the same key.
        patience_seconds: How long to retry while the cluster accepts no record.
        refused: Called with each record that the cluster refuses for good, and the reason.

    Returns:
        How many records are stored.

    Raises:
        LookalikeError: The cluster's last error, if the cluster accepted no record for `patience_seconds`.
    """
    pending = {record.key: record for record in records}
    total, refusals = len(pending), 0
    timeout = min(_STREAM_SECONDS, max(_MIN_STREAM_SECONDS, patience_seconds))
    deadline = time.monotonic() + patience_seconds
    backoff = Backoff(max_seconds=_BACKOFF_MAX_SECONDS)
    while pending:
        failure: LookalikeError | None = None
        try:
            for outcome in client.ingest(list(pending.values()), collection=collection, timeout=timeout):
                if isinstance(outcome.error, _TRANSIENT):
                    failure = outcome.error
                    continue
                record = pending.pop(outcome.key)
                deadline = time.monotonic() + patience_seconds
                if isinstance(outcome.error, LookalikeError):
                    refusals += 1
                    refused(record, outcome.error)
        except _TRANSIENT as error:
            failure = error
        if failure is not None:
            if time.monotonic() >= deadline:
                raise _out_of_patience(failure, patience_seconds)
            time.sleep(backoff.next_seconds(failure.retry_after_ms))
    return total - refusals


def _out_of_patience(error: LookalikeError, patience_seconds: float) -> LookalikeError:
    result = type(error)(
        f"patience: the cluster accepted no record for {patience_seconds:g} s ({error.message}); start the job"
        " again, or with a higher --patience"
    )
    result.request_id = error.request_id
    return result


class RetryQueue:
    """The records to send again. A record is dropped when a later record with the same key supersedes it: if the
    older record were sent now, it would overwrite the later one. The older record counts as stored, as if both had
    been stored in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._records: dict[str, Record] = {}
        self._clock = clock
        self._since = clock()

    def add(self, record: Record) -> int:
        """Adds a record. Returns how many records it supersedes."""
        superseded = 0 if self._records.pop(record.key, None) is None else 1
        self._records[record.key] = record
        return superseded

    def superseded_by(self, record: Record) -> int:
        """Notes that a later record is stored. Returns how many records it supersedes."""
        if not self._records:
            self._since = self._clock()
        return 0 if self._records.pop(record.key, None) is None else 1

    def is_due(self, patience_seconds: float, retry_at: int = _RETRY_AT) -> bool:
        """Whether `retry_at` records wait, or some have waited for `patience_seconds`."""
        return len(self._records) >= retry_at or (
            bool(self._records) and self._clock() - self._since >= patience_seconds
        )

    def take(self, unanswered: Collection[Record] = ()) -> list[Record]:
        """Removes and returns the records to send now: all except those with the key of a later record that is
        still unanswered, because that record may supersede them."""
        later = {record.key for record in unanswered}
        taken = [record for record in self._records.values() if record.key not in later]
        for record in taken:
            del self._records[record.key]
        self._since = self._clock()
        return taken


@contextlib.contextmanager
def in_background(send_all: Callable[[Iterator[Batch]], None]) -> Iterator[Callable[[Batch], None]]:
    """Runs a sender in its own thread. The caller is at most one batch ahead of it.

    The caller produces the batches in the `with` block. An error in the block, or Ctrl-C, ends it at once, without
    waiting for the sender. The thread ends when the sender's client is closed.

    Args:
        send_all: Sends all the batches that it is given.

    Yields:
        A function that hands over a batch. It waits while the sender is busy, and raises the sender's error.
    """
    batches: queue.Queue[Batch | None] = queue.Queue(maxsize=1)
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            send_all(iter(batches.get, None))
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    def put(batch: Batch | None) -> None:
        while True:
            if outcome.done():
                outcome.result()
                return
            with contextlib.suppress(queue.Full):
                batches.put(batch, timeout=_POLL_SECONDS)
                return

    threading.Thread(target=run, name="sender", daemon=True).start()
    try:
        yield put
    except BaseException:
        with contextlib.suppress(queue.Full):
            batches.put_nowait(None)
        raise
    put(None)
    outcome.result()
