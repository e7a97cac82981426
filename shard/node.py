"""Owns a shard's data folder: whose it is, who holds it, and the collections in it.

    FOLDER/shard.json              cluster, partition, replica, and the partition count it was filled for
    FOLDER/lock                    held by the process that serves the folder
    FOLDER/collections/NAME@INCARNATION/   one store each, and the hash file that the collection was made with

A collection comes and goes by a rename, so a crash leaves it whole or absent. One whose store is damaged is
reported by name and refused; the others serve. The incarnation tells a collection from an earlier one of its
name, so what a failed drop left behind never comes back to life."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import shutil
from pathlib import Path
from typing import IO

from lookalike.codespace import CodeSpace
from lookalike.errors import CannotStart, CodeSpaceMismatch, Corruption, NotFound, Overloaded
from lookalike.indexing import Indexing
from lookalike.records import Collection, check_collection_name
from shard.engine import Engine
from shard.store import Store

log = logging.getLogger("shard.node")
STORE_FILE = "records.sqlite"
HASH_FILE = "hash.npz"


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Which shard a folder belongs to. `partitions` is the count by which its records were placed."""

    cluster: str
    partition: int
    replica: int
    partitions: int

    def __str__(self) -> str:
        return f"cluster {self.cluster!r}, partition {self.partition} of {self.partitions}, replica {self.replica}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Open:
    engine: Engine
    incarnation: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Damaged:
    reason: str
    incarnation: int


class Node:
    """The collections of one shard. `load` must have returned before any other method is called."""

    def __init__(self, folder: Path, identity: Identity, scan_threads: int = 1) -> None:
        """Claim the folder. Raises CannotStart if it is another shard's, another process's, or unusable."""
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
        try:
            self._claim()
        except CannotStart:
            self._lock.close()
            raise

    def load(self) -> None:
        """Read every collection into memory, and clear what a crash left half made or half dropped."""
        for folder in sorted(self._collections_folder.iterdir()):
            name, mark, incarnation = folder.name.rpartition("@")
            if folder.name.startswith(".") and folder.is_dir():
                shutil.rmtree(folder)
            elif folder.is_dir() and mark and incarnation.isdecimal():
                self._load(name, int(incarnation), folder)

    def close(self) -> None:
        for collection in self._open.values():
            collection.engine.close()
        self._lock.close()

    def engine(self, name: str) -> Engine:
        """The collection's engine. Raises NotFound or Corruption."""
        if name in self._damaged:
            raise Corruption(self._damaged[name].reason)
        try:
            return self._open[name].engine
        except KeyError:
            raise NotFound(f"collection: {name[:140]!r} does not exist; create it first") from None

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
        if present is not None and present < incarnation and not keep_present:
            self.drop_collection(name, present)
            present = None
        if present is None:
            self._make(name, space, indexing, incarnation, hash_file)
            return True, incarnation
        if present > incarnation and not keep_present:
            raise CodeSpaceMismatch(f"collection: {name!r} exists and was made later than this request")
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
        if present is None or present > incarnation:
            return False
        if name in self._open:
            self._open[name].engine.drop()
        gone = self._collections_folder / f".gone-{name}@{present}"
        self._folder_of(name, present).rename(gone)
        _sync_folder(self._collections_folder)
        self._open.pop(name, None)
        self._damaged.pop(name, None)
        shutil.rmtree(gone)
        return True

    def collections(self) -> list[Collection]:
        """The sound collections, by name."""
        return [
            Collection(name, found.engine.space, found.engine.rows, found.incarnation, found.engine.indexing)
            for name, found in sorted(self._open.copy().items())
        ]

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
            self._open[name] = _Open(engine, incarnation)

    def _make(self, name: str, space: CodeSpace, indexing: Indexing, incarnation: int, hash_file: bytes) -> None:
        folder = self._folder_of(name, incarnation)
        unfinished = self._collections_folder / f".new-{folder.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        Store.create(unfinished / STORE_FILE, space, indexing)
        if hash_file:
            _write_synced(unfinished / HASH_FILE, hash_file)
        unfinished.rename(folder)
        try:
            _sync_folder(self._collections_folder)
            self._open[name] = _Open(Engine(Store(folder / STORE_FILE), self._threads), incarnation)
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

    def _claim(self) -> None:
        path = self._folder / "shard.json"
        if not path.exists():
            unfinished = path.with_suffix(".new")
            _write_synced(unfinished, json.dumps(dataclasses.asdict(self.identity)).encode())
            unfinished.rename(path)
            _sync_folder(self._folder)
            return
        try:
            owner = Identity(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise CannotStart(f"data: {path} is damaged; restore the folder from a backup") from None
        if owner != self.identity:
            raise CannotStart(
                f"data: {self._folder} belongs to {owner}, this is {self.identity};"
                " give each shard its own folder, and keep the partition count (it cannot be changed yet)"
            )


def _lock(folder: Path) -> IO[str]:
    """Hold the folder until the returned file is closed or the process ends."""
    file = open(folder / "lock", "a")  # noqa: SIM115  # closed by Node.close
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CannotStart(f"data: {folder} is open in another process; stop that one first") from None
    return file


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
