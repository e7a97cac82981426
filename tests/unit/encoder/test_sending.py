"""What a job sends retries: of each key the latest row, or none, when a later row is stored."""

from __future__ import annotations

import socket

import pytest

from encoder.ingest.sending import RetryQueue, resend
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
    # The first answer after a while in which the cluster hung.
    now = 13.0
    retries.add(row("a", 1))
    assert not retries.is_due(4)
    assert retries.is_due(3)
    # That others are stored does not help it.
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
        pytest.raises(PartitionUnavailable, match=f"patience: .* for 0 s .*{address} does not answer"),
    ):
        resend(client, "c", [row("a", 1)], 0, lambda record, error: None)
