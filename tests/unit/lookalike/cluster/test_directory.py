"""The rules of names: one name space, aliases that follow a rename, and stored names that never clash."""

from __future__ import annotations

import pytest

from lookalike.cluster.directory import MAX_NAMES, Change, Directory, Kind, check_stored_name, numbered
from lookalike.model.errors import AlreadyExists, InvalidRequest, LookalikeError, NotFound
from lookalike.model.ttl import Ttl

STORED = {"a", "b"}
EMPTY = Directory(1)


def exists(stored: str) -> bool:
    return stored in STORED


def after(*changes: Change, directory: Directory = EMPTY) -> Directory:
    for change in changes:
        directory = directory.changed(change, exists, 0)
    return directory


def alias(name: str, other: str) -> Change:
    return Change(Kind.CREATE_ALIAS, name, other)


def rename(name: str, other: str) -> Change:
    return Change(Kind.RENAME, name, other)


def test_an_alias_resolves_and_is_switched() -> None:
    first = after(alias("live", "a"))
    assert (first.stored("live"), first.stored("a"), first.stored("new")) == ("a", "a", "new")
    second = after(Change(Kind.SWITCH_ALIAS, "live", "b"), directory=first)
    assert (second.stored("live"), second.version) == ("b", first.version + 1)
    assert after(Change(Kind.DELETE_ALIAS, "live"), directory=second).stored("live") == "live"


def test_a_repeated_change_changes_nothing() -> None:
    first = after(alias("live", "a"))
    assert after(Change(Kind.SWITCH_ALIAS, "live", "a"), directory=first) is first


def test_a_renamed_collection_keeps_its_stored_name_and_its_aliases() -> None:
    found = after(alias("live", "a"), rename("a", "c"))
    assert (found.stored("c"), found.stored("live"), found.stored("a")) == ("a", "a", None)
    assert (found.shown("a"), found.aliases_of("a")) == ("c", ["live"])
    again = after(rename("c", "d"), directory=found)
    assert (again.stored("d"), again.stored("c")) == ("a", "c")
    back = after(rename("d", "a"), directory=again)
    assert (back.stored("a"), back.renamed) == ("a", {})


def test_a_name_that_a_rename_freed_can_be_an_alias_or_a_new_collection() -> None:
    found = after(rename("a", "c"))
    assert after(alias("a", "b"), directory=found).stored("a") == "b"
    stored = numbered("a", 7)
    assert check_stored_name(stored) == stored
    other = after(Change(Kind.STORE_AS, "a", stored), directory=found)
    assert (other.stored("a"), other.stored("c")) == (stored, "a")


def test_an_alias_of_an_alias_names_the_collection() -> None:
    found = after(alias("live", "a"), alias("also", "live"))
    assert after(Change(Kind.SWITCH_ALIAS, "live", "b"), directory=found).stored("also") == "a"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (alias("live", "b"), AlreadyExists),
        (alias("b", "a"), AlreadyExists),
        (alias("x", "nobody"), NotFound),
        (alias("bad name", "a"), InvalidRequest),
        (alias("x~1", "a"), InvalidRequest),
        (Change(Kind.SWITCH_ALIAS, "b", "a"), NotFound),
        (Change(Kind.SWITCH_ALIAS, "live", "nobody"), NotFound),
        (Change(Kind.DELETE_ALIAS, "a"), NotFound),
        (rename("a", "b"), AlreadyExists),
        (rename("a", "live"), AlreadyExists),
        (rename("live", "x"), InvalidRequest),
        (rename("nobody", "x"), NotFound),
        (Change(Kind.SET_TTL, "nobody", ttl=Ttl(1)), NotFound),
    ],
)
def test_a_change_that_clashes_is_refused(change: Change, error: type[LookalikeError]) -> None:
    with pytest.raises(error, match=r"alias|collection"):
        after(change, directory=after(alias("live", "a")))


def test_a_collection_with_an_alias_is_not_dropped() -> None:
    found = after(alias("live", "a"), rename("a", "c"), Change(Kind.SET_TTL, "live", ttl=Ttl(5)))
    with pytest.raises(InvalidRequest, match="'c' has the alias 'live'"):
        found.without("a", 0)
    free = after(Change(Kind.DELETE_ALIAS, "live"), directory=found).without("a", 0)
    assert (free.renamed, free.ttls, free.stored("a")) == ({}, {}, "a")
    assert Directory(3).without("a", 0) == Directory(3)


def test_a_new_collection_must_not_take_the_name_of_an_alias_or_of_another() -> None:
    found = after(alias("live", "a"), rename("a", "c"))
    for name in ("live", "c"):
        with pytest.raises(AlreadyExists, match=name):
            found.require_storable(name)
    found.require_storable("d")


def test_the_number_of_names_is_bounded() -> None:
    full = Directory(1, {f"alias-{i}": "a" for i in range(MAX_NAMES)})
    with pytest.raises(InvalidRequest, match="1,000 aliases"):
        full.changed(alias("more", "a"), exists, 0)
    assert full.changed(Change(Kind.DELETE_ALIAS, "alias-1"), exists, 0).stored("alias-1") == "alias-1"


def test_the_later_directory_wins() -> None:
    early, late = after(alias("live", "a")), after(alias("live", "a"), alias("x", "b"))
    assert early.latest(late) is late
    assert late.latest(early) is late
    assert Directory(5).changed(alias("live", "a"), exists, 99).version == 99
