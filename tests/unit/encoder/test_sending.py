"""What a job sends again: of each key the latest row, or none, when a later row is stored."""

from __future__ import annotations

from encoder.ingest.sending import Again
from lookalike import Record


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
