"""Owns how a batch job's records reach the cluster: over ingest streams, until each is stored or refused for
good."""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable, Iterable, Iterator

from lookalike.client import Client
from lookalike.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    LookalikeError,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.records import Record

STREAM_TIMEOUT_SECONDS = 120.0
_BACKOFF_MAX_SECONDS = 5.0
_AGAIN_AT_ONCE = 10_000
_COUNTED_AT_ONCE = 256
_TRANSIENT = (PartitionUnavailable, Overloaded, DeadlineExceeded, Cancelled, Internal)

Refusal = Callable[[Record, LookalikeError], None]


def store(
    client: Client, collection: str, records: Iterable[Record], patience_seconds: float, refused: Refusal
) -> int:
    """Send records until each is stored or refused for good. Returns how many are stored. refused: told of the
    others. Raises the cluster's error once it has lasted `patience_seconds`."""
    waiting = {record.key: record for record in records}
    total, refusals = len(waiting), 0
    deadline = time.monotonic() + patience_seconds
    attempt = 0
    while waiting:
        trouble: LookalikeError | None = None
        try:
            stream = client.ingest(list(waiting.values()), collection=collection, timeout=STREAM_TIMEOUT_SECONDS)
            for outcome in stream:
                if isinstance(outcome.error, _TRANSIENT):
                    trouble = outcome.error
                    continue
                record = waiting.pop(outcome.key)
                if isinstance(outcome.error, LookalikeError):
                    refusals += 1
                    refused(record, outcome.error)
        except _TRANSIENT as error:
            trouble = error
        if trouble is not None:
            attempt += 1
            if time.monotonic() > deadline:
                raise trouble
            pause = min(_BACKOFF_MAX_SECONDS, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
            time.sleep(max(pause, (trouble.retry_after_ms or 0) / 1000))
    return total - refusals


def stream(
    client: Client, collection: str, records: Iterable[Record], patience_seconds: float, refused: Refusal
) -> Iterator[int]:
    """As `store`, for any number of records, over one stream. Yields how many more are stored, now and then. Of
    records with one key the last one stays."""
    sent: collections.deque[Record] = collections.deque()
    again = Again()

    def noted() -> Iterator[Record]:
        for record in records:
            sent.append(record)
            yield record

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
        if len(again.records) >= _AGAIN_AT_ONCE:
            yield store(client, collection, again.take(), patience_seconds, refused)
    yield stored
    yield store(client, collection, again.take(), patience_seconds, refused)


class Again:
    """The records that are to be sent again. One that a later record of its key has outdone is not: sent now, it
    would be the newer. It counts as stored, as it does when both are stored in their turn."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def add(self, record: Record) -> int:
        """Returns how many are outdone."""
        outdone = self.outdone_by(record)
        self.records[record.key] = record
        return outdone

    def outdone_by(self, record: Record) -> int:
        """A later record: stored, or to be sent again itself. Returns how many are outdone."""
        return 0 if self.records.pop(record.key, None) is None else 1

    def take(self) -> list[Record]:
        """All of them, to be sent now."""
        taken = list(self.records.values())
        self.records.clear()
        return taken
