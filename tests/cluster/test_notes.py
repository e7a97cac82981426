"""Notes on collections."""

import pytest

from lookalike import Client
from lookalike.jobs.notes import get_note, set_note
from lookalike.model.errors import InvalidRequest


def test_a_note_belongs_to_one_incarnation_of_a_collection(client: Client, collection: str) -> None:
    found = client.get_collection(collection)
    assert get_note(client, found, "calibration") == ""
    set_note(client, found, "calibration", "first")
    set_note(client, found, "calibration", "é")
    set_note(client, found, "other", "text")
    assert (get_note(client, found, "calibration"), get_note(client, found, "other")) == ("é", "text")
    client.drop_collection(collection)
    client.create_collection(collection, bits=64)
    assert get_note(client, client.get_collection(collection), "calibration") == ""


def test_a_long_note_is_refused(client: Client, collection: str) -> None:
    with pytest.raises(InvalidRequest, match="note: x takes 49,153 bytes; at most 49,152 are stored"):
        set_note(client, client.get_collection(collection), "x", "x" * (48 * 1024 + 1))
