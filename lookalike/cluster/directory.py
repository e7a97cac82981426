"""Owns the directory: which collection a name refers to, and when a collection's records expire.

The shards store a collection under its stored name, which never changes: usually the name that it was created
with. The directory maps names to stored names, so an alias is switched, and a collection renamed, by one change of
one small table, and nothing that is stored moves. Clients never see stored names.

The registrar (the first replica of partition 0) decides every change, one after the other. Each increases the
table's version, and the table with the higher version wins as a whole. So every copy is a state that the registrar
was in."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping

from lookalike.model.errors import AlreadyExists, InvalidRequest, NotFound
from lookalike.model.records import check_collection_name
from lookalike.model.ttl import Ttl

# Names in the directory; every shard reports all of them once a second.
MAX_NAMES = 1_000
# Separates the name and a number in a stored name, if another collection is stored under the name. Not allowed in
# names, so no client's name is equal to such a stored name.
_NUMBERED = "~"


class Kind(enum.IntEnum):
    """The kinds of changes. The values are those of the protobuf enum."""

    CREATE_ALIAS = 1
    SWITCH_ALIAS = 2
    DELETE_ALIAS = 3
    RENAME = 4
    STORE_AS = 5
    SET_TTL = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A change of the directory.

    Attributes:
        name: The alias or the collection that changes.
        other: The alias's collection, the collection's new name, or its stored name.
        ttl: When the collection's records expire; None for never.
    """

    kind: Kind
    name: str
    other: str = ""
    ttl: Ttl | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Directory:
    """The names of collections. Immutable; each method that changes something returns another directory.

    Attributes:
        version: Increases with every change.
        aliases: The stored name of each alias's collection.
        renamed: The stored name of each collection that has another name than that.
        ttls: By stored name, when the collection's records expire.
    """

    version: int = 0
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ttls: Mapping[str, Ttl] = dataclasses.field(default_factory=dict)

    def stored(self, name: str) -> str | None:
        """Returns the stored name of the collection that has this name or alias, whether it exists or not; None
        if the name is free although a collection is stored under it."""
        if known := self.aliases.get(name) or self.renamed.get(name):
            return known
        return None if name in self.renamed.values() else name

    def shown(self, stored: str) -> str:
        """Returns the name of the collection that is stored under `stored`."""
        return next((name for name, other in self.renamed.items() if other == stored), stored)

    def aliases_of(self, stored: str) -> list[str]:
        """Returns the aliases of the collection that is stored under `stored`."""
        return sorted(alias for alias, other in self.aliases.items() if other == stored)

    def mentions(self, name: str) -> bool:
        """Returns whether the directory decides what the name refers to."""
        return self.stored(name) != name

    def latest(self, other: Directory) -> Directory:
        """Returns the later of the two."""
        return other if other.version > self.version else self

    def changed(self, change: Change, exists: Callable[[str], bool], now: int) -> Directory:
        """Applies a change. Returns this directory if there is nothing to change.

        Args:
            change: The change.
            exists: Whether a collection is stored under a name.
            now: The least version of the new directory.

        Raises:
            AlreadyExists: If a new name is in use.
            NotFound: If the alias or the collection does not exist.
            InvalidRequest: If a name is invalid, or of the wrong kind.
        """
        check_collection_name(change.name)
        if change.kind in (Kind.CREATE_ALIAS, Kind.SWITCH_ALIAS, Kind.RENAME):
            check_collection_name(change.other)
        aliases, renamed, ttls = dict(self.aliases), dict(self.renamed), dict(self.ttls)
        match change.kind:
            case Kind.CREATE_ALIAS:
                self._require_free(change.name, exists)
                renamed.pop(change.name, None)
                aliases[change.name] = self._existing(change.other, exists)
            case Kind.SWITCH_ALIAS:
                self._require_alias(change.name)
                aliases[change.name] = self._existing(change.other, exists)
            case Kind.DELETE_ALIAS:
                self._require_alias(change.name)
                del aliases[change.name]
            case Kind.RENAME:
                self.require_own(change.name, "rename")
                stored = self._existing(change.name, exists)
                if change.other != change.name:
                    self._require_free(change.other, exists)
                    for name in (change.name, change.other):
                        renamed.pop(name, None)
                    renamed |= {} if change.other == stored else {change.other: stored}
            case Kind.STORE_AS:
                self._require_free(change.name, exists)
                renamed[change.name] = change.other
            case Kind.SET_TTL:
                stored = self._existing(change.name, exists)
                ttls.pop(stored, None)
                ttls |= {} if change.ttl is None else {stored: change.ttl}
        return self._replaced(aliases, renamed, ttls, now)

    def without(self, stored: str, now: int) -> Directory:
        """Removes a collection that is dropped.

        Raises:
            InvalidRequest: If it has aliases.
        """
        if aliases := self.aliases_of(stored):
            raise InvalidRequest(
                f"collection: {self.shown(stored)!r} has the alias {aliases[0]!r}; switch or delete that first"
            )
        renamed = {name: other for name, other in self.renamed.items() if other != stored}
        ttls = {name: ttl for name, ttl in self.ttls.items() if name != stored}
        return self._replaced(self.aliases, renamed, ttls, now)

    def require_own(self, name: str, verb: str) -> None:
        """Raises InvalidRequest if the name is an alias. verb: what the client wants to do with the collection."""
        if name in self.aliases:
            collection = self.shown(self.aliases[name])
            raise InvalidRequest(
                f"collection: {name!r} is an alias of {collection!r}; {verb} the collection by its own name"
            )

    def require_storable(self, stored: str) -> None:
        """Raises AlreadyExists if a new collection must not be stored under this name, because it is an alias or
        the name of another collection."""
        if stored in self.aliases:
            raise AlreadyExists(f"collection: {stored!r} is an alias; delete it first or use another name")
        if stored in self.renamed:
            raise AlreadyExists(f"collection: {stored!r} exists; drop it first or use another name")

    def _replaced(
        self, aliases: Mapping[str, str], renamed: Mapping[str, str], ttls: Mapping[str, Ttl], now: int
    ) -> Directory:
        after = Directory(self.version, aliases, renamed, ttls)
        if after == self:
            return self
        if len(aliases) + len(renamed) > MAX_NAMES and len(aliases) + len(renamed) > self._names:
            raise InvalidRequest(
                f"alias: there are {self._names:,} aliases and renamed collections; delete one first"
            )
        return dataclasses.replace(after, version=max(now, self.version + 1))

    @property
    def _names(self) -> int:
        return len(self.aliases) + len(self.renamed)

    def _existing(self, name: str, exists: Callable[[str], bool]) -> str:
        stored = self.stored(name)
        if stored is None or not exists(stored):
            raise NotFound(f"collection: {name!r} does not exist; create it first")
        return stored

    def _require_alias(self, alias: str) -> None:
        if alias not in self.aliases:
            raise NotFound(f"alias: {alias!r} does not exist; create it first")

    def _require_free(self, name: str, exists: Callable[[str], bool]) -> None:
        if name in self.aliases:
            raise AlreadyExists(f"alias: {name!r} exists; switch it, delete it or use another name")
        stored = self.stored(name)
        if stored is not None and exists(stored):
            raise AlreadyExists(f"collection: {name!r} exists; drop it, rename it or use another name")


def numbered(name: str, number: int) -> str:
    """Returns a stored name for a new collection, if another collection is stored under its name."""
    return f"{name}{_NUMBERED}{number}"


def check_stored_name(stored: str) -> str:
    """Raises InvalidRequest unless a shard can store a collection under this name."""
    name, mark, number = stored.partition(_NUMBERED)
    check_collection_name(name)
    if mark and not (number.isascii() and number.isdecimal() and len(number) < 20):
        raise InvalidRequest(f"collection: {stored[:140]!r} is not a stored name; use a newer coordinator")
    return stored
