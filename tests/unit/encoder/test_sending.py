"""How records are sent and resent: of each key the latest, or none if a later one is stored."""

from __future__ import annotations

import collections
import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from encoder.ingest.sending import Batch, RetryQueue, in_background, resend
from lookalike import Client, Record
from lookalike.model.errors import PartitionUnavailable


def row(key: str, number: int) -> Record:
    return Record(key, code=number.to_bytes(8, "big"))


def test_superseded_record_is_not_resent() -> None:
    retries = RetryQueue()
    first, second, other = row("a", 1), row("a", 2), row("b", 3)
    assert retries.add(first) == 0
    assert retries.add(other) == 0
    # Sent now, the first row would be newer than the second, which is stored.
    assert retries.superseded_by(second) == 1
    assert retries.take() == [other]
    assert retries.take() == []


def test_later_of_two_failed_records_is_resent() -> None:
    retries = RetryQueue()
    assert retries.add(row("a", 1)) == 0
    assert retries.add(latest := row("a", 2)) == 1
    assert retries.superseded_by(row("b", 3)) == 0
    assert retries.take() == [latest]


def test_record_with_an_unanswered_successor_is_not_resent() -> None:
    retries = RetryQueue()
    retries.add(first := row("a", 1))
    retries.add(other := row("b", 2))
    assert retries.take([row("a", 3)]) == [other]
    assert retries.take() == [first]


def test_records_are_resent_after_waiting() -> None:
    now = 0.0
    retries = RetryQueue(lambda: now)
    assert not retries.is_due(0)
    now = 10.0
    retries.superseded_by(row("stored", 0))
    # The first answer after the cluster hung for a while.
    now = 13.0
    retries.add(row("a", 1))
    assert not retries.is_due(4)
    assert retries.is_due(3)
    # Other stored records do not reset its wait.
    retries.superseded_by(row("stored", 1))
    assert retries.is_due(3)
    retries.take()
    retries.add(row("b", 2))
    assert not retries.is_due(3)
    assert retries.is_due(0)


def test_exhausted_patience_is_an_error_with_its_cause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with (
        Client(address, timeout=0.1) as client,
        pytest.raises(PartitionUnavailable, match=f"patience: .* for 0 s .*{address}: nothing listens there"),
    ):
        resend(client, "c", [row("a", 1)], 0, lambda record, error: None)


def test_batches_reach_the_background_sender_in_order() -> None:
    received: list[Record] = []

    def send_all(batches: Iterator[Batch]) -> None:
        for batch in batches:
            received.extend(batch)

    records = [row("a", number) for number in range(6)]
    with in_background(send_all) as put:
        for batch in (records[:2], records[2:5], records[5:]):
            put(batch)
    assert received == records


def test_background_senders_error_is_raised_to_the_caller() -> None:
    def send_all(batches: Iterator[Batch]) -> None:
        next(batches)
        raise PartitionUnavailable("no cluster")

    with pytest.raises(PartitionUnavailable, match="no cluster"), in_background(send_all) as put:
        collections.deque(map(put, itertools.repeat([row("a", 1)])))


def test_background_senders_last_error_is_raised_at_the_end() -> None:
    def send_all(batches: Iterator[Batch]) -> None:
        list(batches)
        raise PartitionUnavailable("no cluster")

    with pytest.raises(PartitionUnavailable, match="no cluster"), in_background(send_all) as put:
        put([row("a", 1)])


def test_callers_error_does_not_wait_for_a_busy_sender() -> None:
    release = threading.Event()

    def send_all(batches: Iterator[Batch]) -> None:
        next(batches)
        release.wait()

    def interrupted() -> None:
        with in_background(send_all) as put:
            put([row("a", 1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    release.set()
