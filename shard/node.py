"""Owns a shard's data folder: whose it is, who holds it, and the collections in it.

    FOLDER/shard.json              cluster, partition, replica, and the partition count it was filled for
    FOLDER/lock                    held by the process that serves the folder
    FOLDER/collections/NAME/       one store each

A collection comes and goes by a rename, so a crash leaves it whole or absent. One whose store is damaged is
reported by name and refused; the others serve."""

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
from lookalike.errors import CannotStart, CodeSpaceMismatch, Corruption, NotFound
from lookalike.records import Collection, check_collection_name
from shard.engine import Engine
from shard.store import Store

log = logging.getLogger("shard.node")
STORE_FILE = "records.sqlite"


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Which shard a folder belongs to. `partitions` is the count by which its records were placed."""

    cluster: str
    partition: int
    replica: int
    partitions: int

    def __str__(self) -> str:
        return f"cluster {self.cluster!r}, partition {self.partition} of {self.partitions}, replica {self.replica}"


class Node:
    """The collections of one shard. `load` must have returned before any other method is called."""

    def __init__(self, folder: Path, identity: Identity, scan_threads: int = 1) -> None:
        """Claim the folder. Raises CannotStart if it is another shard's, another process's, or unusable."""
        self.identity = identity
        self._folder = folder
        self._collections_folder = folder / "collections"
        self._threads = scan_threads
        self._engines: dict[str, Engine] = {}
        self._damaged: dict[str, Corruption] = {}
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
            if folder.name.startswith("."):
                shutil.rmtree(folder)
                continue
            try:
                self._engines[folder.name] = Engine(Store(folder / STORE_FILE), self._threads)
            except Corruption as error:
                log.error("collection %s is damaged: %s", folder.name, error)
                self._damaged[folder.name] = error

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._lock.close()

    def engine(self, name: str) -> Engine:
        """The collection's engine. Raises NotFound or Corruption."""
        if name in self._damaged:
            raise self._damaged[name]
        try:
            return self._engines[name]
        except KeyError:
            raise NotFound(f"collection: {name[:140]!r} does not exist; create it first") from None

    def open_collection(self, name: str, space: CodeSpace) -> bool:
        """Make sure that the collection is there in this code space. Returns whether it was made now."""
        check_collection_name(name)
        if name in self._engines or name in self._damaged:
            present = self.engine(name).space
            if present != space:
                raise CodeSpaceMismatch(
                    f"collection: {name!r} exists in code space {present.fingerprint[:12]}… ({present.bits} bits),"
                    f" not {space.fingerprint[:12]}… ({space.bits} bits); drop it first or take another name"
                )
            return False
        unfinished = self._collections_folder / f".new-{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        Store.create(unfinished / STORE_FILE, space)
        folder = self._collections_folder / name
        unfinished.rename(folder)
        _sync_folder(self._collections_folder)
        self._engines[name] = Engine(Store(folder / STORE_FILE), self._threads)
        return True

    def drop_collection(self, name: str) -> bool:
        """Delete the collection, damaged or not. Returns whether there was one. A scan that still runs on
        it ends undisturbed: its files live on until it lets go of them."""
        if name not in self._engines and name not in self._damaged:
            return False
        gone = self._collections_folder / f".gone-{name}"
        shutil.rmtree(gone, ignore_errors=True)
        (self._collections_folder / name).rename(gone)
        _sync_folder(self._collections_folder)
        self._engines.pop(name, None)
        self._damaged.pop(name, None)
        shutil.rmtree(gone)
        return True

    def collections(self) -> list[Collection]:
        """The sound collections, by name."""
        return [Collection(name, engine.space, engine.rows) for name, engine in sorted(self._engines.items())]

    @property
    def memory_bytes(self) -> int:
        return sum(engine.memory_bytes for engine in self._engines.values())

    def _claim(self) -> None:
        path = self._folder / "shard.json"
        if not path.exists():
            unfinished = path.with_suffix(".new")
            _write_synced(unfinished, json.dumps(dataclasses.asdict(self.identity)))
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


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
