"""What a job sends again: of each key the latest row, or none, when a later row is stored."""

from __future__ import annotations

import socket

import pytest

from encoder.ingest.sending import Again, store
from lookalike import Client, Record
from lookalike.model.errors import PartitionUnavailable


def row(key: str, number: int) -> Record:
    return Record(key, code=number.to_bytes(8, "big"))


def test_a_row_is_not_sent_again_after_a_later_one_of_its_key() -> None:
    again = Again()
    first, second, other = row("a", 1), row("a", 2), row("b", 3)
    assert again.add(first) == 0
    assert again.add(other) == 0
    # Sent now, the first row would be newer than the second, which is stored.
    assert again.outdone_by(second) == 1
    assert again.take() == [other]
    assert again.take() == []


def test_of_two_rows_to_be_sent_again_the_later_is() -> None:
    again = Again()
    assert again.add(row("a", 1)) == 0
    assert again.add(latest := row("a", 2)) == 1
    assert again.outdone_by(row("b", 3)) == 0
    assert again.take() == [latest]


def test_a_row_whose_successor_is_on_its_way_is_not_sent_again() -> None:
    again = Again()
    again.add(first := row("a", 1))
    again.add(other := row("b", 2))
    assert again.take([row("a", 3)]) == [other]
    assert again.take() == [first]


def test_rows_are_sent_again_once_they_have_waited() -> None:
    now = 0.0
    again = Again(lambda: now)
    assert not again.is_due(0)
    now = 10.0
    again.outdone_by(row("stored", 0))
    # The first answer after a while in which the cluster hung.
    now = 13.0
    again.add(row("a", 1))
    assert not again.is_due(4)
    assert again.is_due(3)
    # That others are stored does not help it.
    again.outdone_by(row("stored", 1))
    assert again.is_due(3)
    again.take()
    again.add(row("b", 2))
    assert not again.is_due(3)
    assert again.is_due(0)


def test_a_job_that_is_out_of_patience_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with (
        Client(address, timeout=0.1) as client,
        pytest.raises(PartitionUnavailable, match=f"patience: .* for 0 s .*{address} does not answer"),
    ):
        store(client, "c", [row("a", 1)], 0, lambda record, error: None)
