"""Ids, fingerprints and the names of errors on the wire."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from lookalike.model import errors
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest
from lookalike.model.records import record_id, slot_of


def test_id_is_the_keys_blake2b_hash() -> None:
    # Must never change: ids decide where stored records are.
    assert record_id("a.jpg") == 0xFE47F0026E12A789
    assert slot_of(record_id("a.jpg")) == 0xFE47F0026E12A789 >> 54
    assert slot_of(2**64 - 1) == 1_023


def test_fingerprint_depends_on_every_field() -> None:
    space = CodeSpace(256, "b", "w", "l", "p", "h", "d")
    others = [
        dataclasses.replace(space, **{field.name: 512 if field.name == "bits" else "other"})
        for field in dataclasses.fields(space)
    ]
    assert len({space.fingerprint, *(other.fingerprint for other in others)}) == 8
    assert len(space.fingerprint) == 64
    assert CodeSpace(256).fingerprint == CodeSpace(256).fingerprint


def test_other_or_missing_fingerprint_is_rejected() -> None:
    with pytest.raises(CodeSpaceMismatch):
        CodeSpace(256).require(CodeSpace(256, hash_digest="seed 1").fingerprint, "the query")
    with pytest.raises(InvalidRequest):
        CodeSpace(256, hash_digest="seed 1").require("", "the query")
    # Of these codes only the width is known, which the code itself shows.
    CodeSpace(256).require("", "the query")


def test_every_error_is_decoded_as_its_class() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.LookalikeError)
    ]
    for kind in kinds:
        if kind not in (errors.LookalikeError, errors.CannotStart):
            assert type(errors.by_name(errors.name_of(kind("x")), "x")) is kind
    assert type(errors.by_name("NoSuchError", "x")) is errors.Internal
    assert type(errors.by_status("UNAVAILABLE", "x")) is errors.PartitionUnavailable
    assert type(errors.by_status("UNIMPLEMENTED", "x")) is errors.Internal


def test_client_imports_no_server_code() -> None:
    heavy = "typer rich pydantic yaml numba torch ray aiohttp shard coordinator encoder".split()
    program = f"import sys, lookalike; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
