"""What a job says of the formats and kinds of its codes."""

from __future__ import annotations

import dataclasses

import pytest

from encoder.ingest.code_options import CodeOptions, CodeReader
from encoder.ingest.tables.naming import Choice, choose
from encoder.ingest.tables.table import Table
from encoder.ingest.tables.text_files import JSONL
from lookalike import CodeSpace
from lookalike.model.code_kinds import KINDS
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection


def table(column: str) -> Table:
    found = Table("file:///t.jsonl", JSONL, {"key": "text", column: "text"}, "")
    return dataclasses.replace(found, naming=choose(found.kinds, Choice({"code": column})))


def collection(space: CodeSpace) -> Collection:
    return Collection("made", space, 0, 1, Indexing())


def test_a_guessed_kind_is_said_aloud_and_a_given_one_is_not() -> None:
    said: list[str] = []
    guessing = CodeOptions(say=said.append)
    assert guessing.new_space(256, [table("pdq_hash")]) == CodeSpace.of_kind("pdq")
    assert said == ["code_kind: the column's name says that the codes are pdq; --code-kind overrides it"]
    given = CodeOptions(kind=KINDS["blockhash"], say=said.append)
    assert given.new_space(256, [table("pdq_hash")]) == CodeSpace.of_kind("blockhash", 256)
    assert guessing.new_space(256, [table("signature")]) == CodeSpace(256)
    assert len(said) == 1


def test_a_guess_never_overrules_a_collection() -> None:
    guessing = CodeOptions()
    tables = [table("phash")]
    guessing.require_kind(collection(CodeSpace(64)), tables)
    guessing.require_kind(collection(CodeSpace.of_kind("phash", 64)), tables)
    for space in (CodeSpace.of_kind("dhash", 64), CodeSpace(64, "some-net", hash_method="lsh")):
        with pytest.raises(
            CodeSpaceMismatch, match=rf"holds (dhash|some-net) codes \({space.hash_method}, 64 bits\)"
        ):
            guessing.require_kind(collection(space), tables)
    guessing.require_kind(collection(CodeSpace.of_kind("dhash", 64)), [table("signature")])


def test_the_first_codes_decide_and_padding_is_said_aloud() -> None:
    said: list[str] = []
    reader = CodeReader(table("hash"), CodeOptions(say=said.append))
    reader.see([None, None])
    reader.see([None, "0123456789abcdef012345678"])
    reader.see(["01" * 32])
    assert reader.reading.units == 25
    assert said == [
        "code: column 'hash' has codes of 100 bits; 4 zero bits at the end make 104, which changes no distance"
    ]


def test_the_kind_of_the_collection_resolves_an_ambiguity() -> None:
    bits = [[0, 1] * 128]
    reader = CodeReader(table("hash"), CodeOptions(target=CodeSpace.of_kind("pdq")))
    reader.see(bits)
    assert reader.reading.format == "bits"
    with pytest.raises(InvalidRequest, match="column 'hash' is ambiguous"):
        CodeReader(table("hash"), CodeOptions()).see(bits)
