"""Owns a shard's data folder: whose it is, who holds it, and the collections in it.

    FOLDER/shard.json              whose it is, and what the shard is to each slot (see `shard.membership`)
    FOLDER/lock                    held by the process that serves the folder
    FOLDER/collections/NAME@INCARNATION/   one store each, and the hash file that the collection was made with

A collection comes and goes by a rename, so a crash leaves it whole or absent. One whose store is damaged is
reported by name and refused; the others serve. The incarnation tells a collection from an earlier one of its
name, so what a failed drop left behind never comes back to life."""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lookalike.cluster.slots import SlotSet, SlotTable
from lookalike.files.atomic import sync_folder, write_bytes
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CannotStart, CodeSpaceMismatch, Corruption, NotFound, Overloaded
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, check_collection_name
from shard import membership as memberships
from shard.engine import Engine
from shard.membership import Identity, Membership
from shard.store import Store

log = logging.getLogger("shard.node")
STORE_FILE = "records.sqlite"
HASH_FILE = "hash.npz"
# Marks a collection that was damaged and is being filled again.
FILLING_FILE = "filling"
_FILLING = "was damaged and is being filled again from another replica"


@dataclasses.dataclass(frozen=True, slots=True)
class _Open:
    """is_whole: not being filled again from another replica after damage."""

    engine: Engine
    incarnation: int
    is_whole: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class _Damaged:
    reason: str
    incarnation: int


class Node:
    """The collections of one shard. `load` must have returned before any other method is called."""

    def __init__(self, folder: Path, identity: Identity, partitions: int = 1, scan_threads: int = 1) -> None:
        """Claim the folder; partitions: of the config. Raises CannotStart if it is another shard's, another
        process's, or unusable."""
        self.identity = identity
        self._folder = folder
        self._collections_folder = folder / "collections"
        self._threads = scan_threads
        self._open: dict[str, _Open] = {}
        self._damaged: dict[str, _Damaged] = {}
        try:
            self._collections_folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise CannotStart(
                f"data: {folder} cannot be used ({error.strerror}); make it a folder that this process may write"
            ) from None
        self._changing = threading.Lock()
        try:
            self._membership = memberships.load(folder, identity, partitions)
            memberships.save(folder, self._membership)
        except CannotStart:
            self._lock.close()
            raise

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def membership(self) -> Membership:
        return self._membership

    @property
    def table(self) -> SlotTable:
        """What this shard is to each slot."""
        return self._membership.table

    def change(self, step: Callable[[Membership], Membership]) -> Membership:
        """Take a step from one membership to the next; it is on disk when this returns."""
        with self._changing:
            after = step(self._membership)
            if after is not self._membership:
                memberships.save(self._folder, after)
                self._membership = after
            return after

    def change_table(self, step: Callable[[SlotTable], SlotTable]) -> SlotTable:
        """As `change`, for the slots."""

        def change(before: Membership) -> Membership:
            table = step(before.table)
            return before if table.same_as(before.table) else dataclasses.replace(before, table=table)

        return self.change(change).table

    def load(self) -> None:
        """Read every collection into memory, and clear what a crash left half made or half dropped."""
        for folder in sorted(self._collections_folder.iterdir()):
            name, mark, incarnation = folder.name.rpartition("@")
            if folder.name.startswith((".new-", ".gone-")) and folder.is_dir():
                shutil.rmtree(folder)
            elif folder.is_dir() and mark and incarnation.isdecimal():
                self._load(name, int(incarnation), folder)

    def close(self) -> None:
        for collection in self._open.values():
            collection.engine.close()
        self._lock.close()

    def engine(self, name: str, to_fill: bool = False) -> Engine:
        """The collection's engine; to_fill: also one that is being filled again. Raises NotFound or Corruption."""
        damaged = self._damaged.get(name)
        if damaged is not None:
            raise Corruption(damaged.reason)
        found = self._open.get(name)
        if found is None:
            raise NotFound(f"collection: {name[:140]!r} does not exist; create it first")
        if not (found.is_whole or to_fill):
            raise Corruption(f"collection: {name!r} {_FILLING}")
        return found.engine

    def open_collection(
        self,
        name: str,
        space: CodeSpace,
        indexing: Indexing,
        incarnation: int,
        keep_present: bool,
        hash_file: bytes = b"",
    ) -> tuple[bool, int]:
        """Make sure that the collection is there, in this code space, so indexed, and in this incarnation or, with
        `keep_present`, in whichever is there. An earlier incarnation is dropped. Returns whether it was made
        now, and its incarnation."""
        check_collection_name(name)
        present = self._incarnation(name)
        dropped = self._membership.dropped.get(name, -1)
        if keep_present:
            incarnation = max(incarnation, dropped + 1)
        elif present is not None and present > incarnation:
            raise CodeSpaceMismatch(f"collection: {name!r} exists and was made later than this request")
        elif incarnation <= dropped:
            raise NotFound(f"collection: {name!r} was dropped meanwhile")
        if present is not None and present < incarnation and not keep_present:
            self.drop_collection(name, present)
            present = None
        if present is None:
            self._make(name, space, indexing, incarnation, hash_file)
            return True, incarnation
        self._require_same(name, space, indexing)
        return False, present

    def hash_file(self, name: str) -> bytes:
        """The file that the collection's hash came in, empty if it was made without. Raises NotFound,
        Corruption."""
        self.engine(name)
        present = self._incarnation(name)
        try:
            return (self._folder_of(name, present or 0) / HASH_FILE).read_bytes()
        except FileNotFoundError:
            return b""

    def drop_collection(self, name: str, incarnation: int) -> bool:
        """Delete the collection, damaged or not, unless it is a later incarnation. Returns whether there was
        one. A scan that still runs on it ends undisturbed: its files live on until it lets go of them."""
        present = self._incarnation(name)
        if present is not None and present > incarnation:
            return False
        self.change(lambda before: _with_dropped(before, name, incarnation))
        if present is None:
            return False
        if name in self._open:
            self._open[name].engine.drop()
        gone = self._collections_folder / f".gone-{name}@{present}"
        self._folder_of(name, present).rename(gone)
        sync_folder(self._collections_folder)
        self._open.pop(name, None)
        self._damaged.pop(name, None)
        shutil.rmtree(gone)
        return True

    def engines(self) -> dict[str, Engine]:
        """Those of the collections that can be read, also of those being filled again."""
        return {name: found.engine for name, found in self._open.copy().items()}

    def has_hash(self, name: str) -> bool:
        """Whether the collection came with a hash file."""
        return (self._folder_of(name, self._incarnation(name) or 0) / HASH_FILE).exists()

    def collections(self, slots: SlotSet) -> list[Collection]:
        """The sound collections, by name, with their rows in these slots."""
        return [
            Collection(
                name,
                found.engine.space,
                int(found.engine.sums.live[slots].sum()),
                found.incarnation,
                found.engine.indexing,
            )
            for name, found in sorted(self._open.copy().items())
        ]

    def damaged(self) -> dict[str, str]:
        """The collections that cannot be read, by name, and why."""
        reasons = {name: found.reason for name, found in self._damaged.copy().items()}
        filling = {name: _FILLING for name, found in self._open.copy().items() if not found.is_whole}
        return {**filling, **reasons}

    def incarnation(self, name: str) -> int | None:
        """That of the collection that is here, damaged or not."""
        return self._incarnation(name)

    def set_aside(self, name: str, reason: str) -> None:
        """Take a damaged collection out of service; its files stay as they are until it is made anew."""
        found = self._open.pop(name)
        self._damaged[name] = _Damaged(reason, found.incarnation)
        found.engine.drop()
        log.error("collection %s is set aside: %s", name, reason)

    def make_anew(
        self, name: str, space: CodeSpace, indexing: Indexing, incarnation: int, hash_file: bytes
    ) -> None:
        """Put an empty collection in the place of a damaged one, to be filled from another replica: it takes
        writes, and answers no reads until `is_filled`. The damaged files are kept beside."""
        folder = self._folder_of(name, self._damaged[name].incarnation)
        folder.rename(self._collections_folder / f".damaged-{folder.name}-{time.time_ns()}")
        sync_folder(self._collections_folder)
        self._make(name, space, indexing, incarnation, hash_file, is_whole=False)
        del self._damaged[name]

    def is_filled(self, name: str) -> None:
        """The collection has all that another replica has."""
        found = self._open[name]
        (self._folder_of(name, found.incarnation) / FILLING_FILE).unlink(missing_ok=True)
        self._open[name] = dataclasses.replace(found, is_whole=True)

    @property
    def memory_bytes(self) -> int:
        return sum(found.engine.memory_bytes for found in self._open.copy().values())

    def _load(self, name: str, incarnation: int, folder: Path) -> None:
        try:
            engine = Engine(Store(folder / STORE_FILE), self._threads)
        except (Corruption, Overloaded) as error:
            log.error("collection %s cannot be opened: %s", name, error.message)
            self._damaged[name] = _Damaged(error.message, incarnation)
        else:
            self._open[name] = _Open(engine, incarnation, not (folder / FILLING_FILE).exists())

    def _make(
        self,
        name: str,
        space: CodeSpace,
        indexing: Indexing,
        incarnation: int,
        hash_file: bytes,
        is_whole: bool = True,
    ) -> None:
        folder = self._folder_of(name, incarnation)
        unfinished = self._collections_folder / f".new-{folder.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        Store.create(unfinished / STORE_FILE, space, indexing)
        if hash_file:
            write_bytes(unfinished / HASH_FILE, hash_file)
        if not is_whole:
            write_bytes(unfinished / FILLING_FILE, b"")
        unfinished.rename(folder)
        try:
            sync_folder(self._collections_folder)
            self._open[name] = _Open(Engine(Store(folder / STORE_FILE), self._threads), incarnation, is_whole)
        except BaseException:
            shutil.rmtree(folder)
            raise

    def _incarnation(self, name: str) -> int | None:
        found = self._open.get(name) or self._damaged.get(name)
        return None if found is None else found.incarnation

    def _folder_of(self, name: str, incarnation: int) -> Path:
        return self._collections_folder / f"{name}@{incarnation}"

    def _require_same(self, name: str, space: CodeSpace, indexing: Indexing) -> None:
        engine = self.engine(name)
        present = engine.space
        if present == space and engine.indexing != indexing:
            raise CodeSpaceMismatch(
                f"collection: {name!r} exists and is indexed otherwise; drop it first or take another name"
            )
        if present != space:
            raise CodeSpaceMismatch(
                f"collection: {name!r} exists in code space {present.fingerprint[:12]}…"
                f" ({present.bits} bits), not {space.fingerprint[:12]}… ({space.bits} bits);"
                " drop it first or take another name"
            )


def _with_dropped(before: Membership, name: str, incarnation: int) -> Membership:
    if before.dropped.get(name, 0) >= incarnation:
        return before
    return dataclasses.replace(before, dropped={**before.dropped, name: incarnation})


def _lock(folder: Path) -> IO[str]:
    """Hold the folder until the returned file is closed or the process ends."""
    file = open(folder / "lock", "a")  # noqa: SIM115  # closed by Node.close
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CannotStart(f"data: {folder} is open in another process; stop that one first") from None
    return file
