"""Owns a shard's data folder: which shard it belongs to, which process holds it, and the collections in it.

    FOLDER/shard.json              the shard's membership (see `shard.membership`)
    FOLDER/lock                    held by the process that serves the folder
    FOLDER/collections/NAME@INCARNATION/   one store each, and the hash file that the collection was created with

A collection is created and dropped by a rename, so a crash leaves it whole or absent. If a collection's store is
damaged, calls to that collection fail with an error that names it; the others are served. The incarnation
distinguishes a collection from an earlier one of the same name, so the remains of a failed drop never return."""

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

import numpy as np
import numpy.typing as npt

from lookalike.cluster.directory import Directory, check_stored_name
from lookalike.cluster.slots import HandOver, SlotSet, SlotTable
from lookalike.files.atomic import sync_folder, write_bytes
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CannotStart, CodeSpaceMismatch, Corruption, NotFound, Overloaded
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS, Collection
from shard import membership as memberships
from shard import process_memory
from shard.engine import Engine
from shard.kernel import Search
from shard.membership import Identity, Membership
from shard.open_stores import OpenStores
from shard.store import Store

log = logging.getLogger("shard.node")
STORE_FILE = "records.sqlite"
HASH_FILE = "hash.npz"
# An empty file in the folder of a collection that was damaged and is being filled again.
FILLING_FILE = "filling"
_FILLING = "was damaged and is being filled again from another replica"


@dataclasses.dataclass(frozen=True, slots=True)
class _Open:
    """A collection in use. is_whole: False while it is being filled again from another replica after damage."""

    engine: Engine
    incarnation: int
    is_whole: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class _Damaged:
    reason: str
    incarnation: int


class Node:
    """The collections of one shard. `load` must have returned before they are used."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        partitions: int = 1,
        scan_threads: int = 1,
        searcher: Search | None = None,
    ) -> None:
        """Locks the folder.

        Args:
            partitions: The number of partitions in the config.
            scan_threads: Threads per scan.
            searcher: The search of a device other than the CPU.

        Raises:
            CannotStart: If the folder belongs to another shard, another process holds it, or it is unusable.
        """
        self.identity = identity
        self._folder = folder
        self._collections_folder = folder / "collections"
        self._threads = scan_threads
        self._searcher = searcher
        self._open_stores = OpenStores()
        self._open: dict[str, _Open] = {}
        self._damaged: dict[str, _Damaged] = {}
        try:
            self._collections_folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise CannotStart(
                f"data: {folder} cannot be used ({error.strerror}); make it writable for this process"
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
        """What this shard knows about itself and the cluster. May be read in any thread."""
        return self._membership

    @property
    def table(self) -> SlotTable:
        """The state of each slot on this shard."""
        return self._membership.table

    def change(self, step: Callable[[Membership], Membership]) -> Membership:
        """Replaces the membership by what `step` returns for it; the new one is on disk when this returns."""
        with self._changing:
            after = step(self._membership)
            if after is not self._membership:
                memberships.save(self._folder, after)
                self._membership = after
            return after

    def change_table(self, step: Callable[[SlotTable], SlotTable]) -> SlotTable:
        """Like `change`, for the table of slots."""

        def change(before: Membership) -> Membership:
            table = step(before.table)
            return before if table.same_as(before.table) else dataclasses.replace(before, table=table)

        return self.change(change).table

    def hand_over(self, move: HandOver) -> SlotSet:
        """Takes a step in handing slots over to another partition. Returns the slots for which that step is
        done."""
        return self.change_table(lambda before: before.hand_over(move)).handed_over(move)

    def load(self) -> None:
        """Reads every collection into memory, and deletes what a crash left half created or half dropped."""
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

    def engine(self, name: str, include_filling: bool = False) -> Engine:
        """Returns a collection's engine.

        Args:
            include_filling: Whether to return a collection that is being filled again, too.

        Raises:
            NotFound: If the collection does not exist.
            Corruption: If it is damaged.
        """
        damaged = self._damaged.get(name)
        if damaged is not None:
            raise Corruption(damaged.reason)
        found = self._open.get(name)
        if found is None:
            raise NotFound(f"collection: {name[:140]!r} does not exist; create it first")
        if not (found.is_whole or include_filling):
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
        """Creates the collection unless it exists. An earlier incarnation is dropped first.

        Args:
            keep_present: Whether to keep the incarnation that exists, whichever it is; `incarnation` is then used
                for a new collection only.

        Returns:
            Whether the collection was created now, and its incarnation.

        Raises:
            AlreadyExists: With `keep_present`, if the name belongs to an alias or another collection.
            CodeSpaceMismatch: If it exists in another code space, with other indexing or in a later incarnation.
            NotFound: If this incarnation was dropped.
        """
        check_stored_name(name)
        present = self.incarnation(name)
        dropped = self._membership.dropped.get(name, -1)
        if keep_present:
            self._membership.directory.require_storable(name)
            incarnation = max(incarnation, dropped + 1)
        elif present is not None and present > incarnation:
            raise CodeSpaceMismatch(f"collection: {name!r} exists and was created later than this request")
        elif incarnation <= dropped:
            raise NotFound(f"collection: {name!r} was dropped in the meantime")
        if present is not None and present < incarnation and not keep_present:
            self.drop_collection(name, present)
            present = None
        if present is None:
            self._make(name, space, indexing, incarnation, hash_file)
            return True, incarnation
        self._require_same(name, space, indexing)
        return False, present

    def hash_file(self, name: str) -> bytes:
        """Returns the hash file that the collection was created with; empty if it has none.

        Raises:
            NotFound: If the collection does not exist.
            Corruption: If it is damaged.
        """
        self.engine(name)
        present = self.incarnation(name)
        try:
            return (self._folder_of(name, present or 0) / HASH_FILE).read_bytes()
        except FileNotFoundError:
            return b""

    def drop_collection(self, name: str, incarnation: int) -> bool:
        """Deletes the collection, damaged or not, unless it is a later incarnation. A scan in progress is not
        disturbed: it keeps the files open until it ends.

        Returns:
            Whether there was a collection to delete.
        """
        present = self.incarnation(name)
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
        process_memory.give_back()
        return True

    def adopt_directory(self, directory: Directory) -> None:
        """Adopts a directory that another shard or a coordinator sent, if it is later than this shard's."""
        self.change(lambda before: before.with_directory(directory))

    def engines(self) -> dict[str, Engine]:
        """Returns the engines of all collections that are not quarantined, including those being filled again."""
        return {name: found.engine for name, found in self._open.copy().items()}

    def has_hash(self, name: str) -> bool:
        """Returns whether the collection has a hash file."""
        return (self._folder_of(name, self.incarnation(name) or 0) / HASH_FILE).exists()

    def collections(self, slots: SlotSet) -> list[Collection]:
        """Returns the collections that are not quarantined, ordered by name, with their live rows in these
        slots."""
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
        """Returns, for each collection whose reads are refused, the reason."""
        reasons = {name: found.reason for name, found in self._damaged.copy().items()}
        filling = {name: _FILLING for name, found in self._open.copy().items() if not found.is_whole}
        return {**filling, **reasons}

    def incarnation(self, name: str) -> int | None:
        """Returns the incarnation of the collection on this shard, damaged or not; None if there is none."""
        found = self._open.get(name) or self._damaged.get(name)
        return None if found is None else found.incarnation

    def slot_rows(self) -> npt.NDArray[np.int64]:
        """Returns int64 (SLOTS,): the rows of each slot over all collections, tombstones included."""
        rows = np.zeros(SLOTS, np.int64)
        for engine in self.engines().values():
            rows = rows + engine.sums.rows
        return rows

    def quarantine(self, name: str, reason: str) -> None:
        """Takes a damaged collection out of service. Its files stay as they are until it is recreated."""
        found = self._open.pop(name)
        self._damaged[name] = _Damaged(reason, found.incarnation)
        found.engine.drop()
        log.error("collection %s is quarantined: %s", name, reason)

    def recreate(
        self, name: str, space: CodeSpace, indexing: Indexing, incarnation: int, hash_file: bytes
    ) -> None:
        """Replaces a damaged collection by an empty one, to be filled from another replica. The new one accepts
        writes, but no reads until `mark_filled`. The damaged files are kept next to it as `.damaged-...`."""
        folder = self._folder_of(name, self._damaged[name].incarnation)
        folder.rename(self._collections_folder / f".damaged-{folder.name}-{time.time_ns()}")
        sync_folder(self._collections_folder)
        self._make(name, space, indexing, incarnation, hash_file, is_whole=False)
        del self._damaged[name]

    def mark_filled(self, name: str) -> None:
        """Begins to answer reads of a collection that has been filled again."""
        found = self._open[name]
        (self._folder_of(name, found.incarnation) / FILLING_FILE).unlink(missing_ok=True)
        self._open[name] = dataclasses.replace(found, is_whole=True)

    def _load(self, name: str, incarnation: int, folder: Path) -> None:
        try:
            engine = self._engine_in(folder)
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
            self._open[name] = _Open(self._engine_in(folder), incarnation, is_whole)
        except BaseException:
            shutil.rmtree(folder)
            raise

    def _engine_in(self, folder: Path) -> Engine:
        return Engine(Store(folder / STORE_FILE), self._threads, self._open_stores, self._searcher)

    def _folder_of(self, name: str, incarnation: int) -> Path:
        return self._collections_folder / f"{name}@{incarnation}"

    def _require_same(self, name: str, space: CodeSpace, indexing: Indexing) -> None:
        engine = self.engine(name)
        present = engine.space
        if present == space and engine.indexing != indexing:
            raise CodeSpaceMismatch(
                f"collection: {name!r} exists with other indexing; drop it first or use another name"
            )
        if present != space:
            raise CodeSpaceMismatch(
                f"collection: {name!r} exists in code space {present.fingerprint[:12]}…"
                f" ({present.bits} bits), not {space.fingerprint[:12]}… ({space.bits} bits);"
                " drop it first or use another name"
            )


def _with_dropped(before: Membership, name: str, incarnation: int) -> Membership:
    if before.dropped.get(name, 0) >= incarnation:
        return before
    return dataclasses.replace(before, dropped={**before.dropped, name: incarnation})


def _lock(folder: Path) -> IO[str]:
    """Locks the folder until the returned file is closed or the process ends."""
    file = open(folder / "lock", "a")  # noqa: SIM115  # closed by Node.close
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CannotStart(f"data: {folder} is open in another process; stop that one first") from None
    return file
