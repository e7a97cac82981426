"""Kinds of codes, and their code spaces."""

from __future__ import annotations

import pytest

from lookalike import CodeSpace
from lookalike.model.code_kinds import KINDS, kind_of_column
from lookalike.model.errors import InvalidRequest


def test_every_kind_has_a_fingerprint_of_its_own() -> None:
    spaces = [CodeSpace.of_kind(name, kind.bits or 64) for name, kind in KINDS.items()]
    fingerprints = {space.fingerprint for space in [*spaces, CodeSpace(64), CodeSpace(256), CodeSpace(48)]}
    assert len(fingerprints) == len(KINDS) + 3
    assert [space.kind for space in spaces] == list(KINDS.values())
    assert CodeSpace(64).kind is None


def test_a_kinds_width_is_rounded_up_to_bytes() -> None:
    assert CodeSpace.of_kind("pdq").bits == 256
    assert CodeSpace.of_kind("phash", 100).bits == 104
    assert CodeSpace.of_kind("colorhash", 42) == CodeSpace.of_kind("colorhash", 48)


def test_a_wrong_kind_or_width_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidRequest, match="code_kind: unknown value 'md5'; use one of pdq, phash"):
        CodeSpace.of_kind("md5")
    with pytest.raises(InvalidRequest, match="bits: 64 is not the width of pdq codes; they have 256"):
        CodeSpace.of_kind("pdq", 64)
    with pytest.raises(InvalidRequest, match="bits: missing; phash codes have several widths"):
        CodeSpace.of_kind("phash")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("pdq", "pdq"), ("pdq_hash", "pdq"), ("PDQHash", "pdq"), ("phash", "phash"), ("p_hash", "phash"),
        ("ahash", "ahash"), ("colorhash", "colorhash"), ("hash", None), ("code", None), ("image_hash", None),
        ("phash_of_thumbnail", None), ("embedding", None), ("", None),
    ],
)  # fmt: skip
def test_only_certain_names_of_columns_stand_for_a_kind(column: str, kind: str | None) -> None:
    found = kind_of_column(column)
    assert (None if found is None else found.name) == kind
