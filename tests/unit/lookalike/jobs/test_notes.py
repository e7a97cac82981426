"""The metadata of an exported parquet file."""

from __future__ import annotations

import pytest

from lookalike import CodeSpace
from lookalike.jobs.export import notes
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing

SPACE = CodeSpace(64, hash_digest="abc")
INDEXING = Indexing("mih", ("label", "year"), "int8", 16)


def test_metadata_keys_are_part_of_the_file_format() -> None:
    assert set(notes.write(SPACE, INDEXING)) == {"lookalike.code_space", "lookalike.indexing"}


def test_what_is_written_is_read_again() -> None:
    assert notes.read(notes.write(SPACE, INDEXING)) == (SPACE, INDEXING)


def test_file_of_another_tool_has_no_code_space() -> None:
    assert notes.read({"pandas": "{}"}) is None


def test_damaged_metadata_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="path: its code space cannot be read"):
        notes.read({"lookalike.code_space": "{"})
