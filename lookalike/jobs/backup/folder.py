"""Owns the layout of a backup folder: URL/COLLECTION/NUMBER/manifest.json next to the files that it names.

A backup is finished once it has its manifest, which is written last and atomically. A folder without a manifest
was left by an interrupted backup."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec

from lookalike.cluster.dump import Mark
from lookalike.cluster.slots import SlotSet, no_slots, slots_from_bytes
from lookalike.files.stores import explained, reason_of
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import AlreadyExists, Corruption, InvalidRequest, NotFound
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS, check_collection_name

FORMAT = 1
MANIFEST = "manifest.json"
_UNFINISHED = "manifest.json.new"
_CHECKSUM = "sha256"
_FILE = re.compile(r"[a-z]+(-[0-9a-f]+)+\.[a-z.]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One file of a backup's records.

    Args:
        file: The file's name.
        sha256: The file's digest, in hex.
        size: The file's size in bytes.
        records: The number of records in the file, deletions included.
        rows: The number of live records that the cluster had in the part's slots.
        slots: The slots that the part covers, one bit each, in hex.
        whole: The slots of which the file holds every live record, not only the changes; encoded like `slots`.
        store: A field of `mark`, like `number`, `partition` and `replica`: see `lookalike.cluster.dump.Mark`.
    """

    file: str
    sha256: str
    size: int
    records: int
    rows: int
    slots: str
    whole: str
    store: str
    number: int
    partition: int
    replica: int

    @property
    def mark(self) -> Mark:
        """Where the next incremental backup continues."""
        return Mark(
            self.store, self.number, slots_from_bytes(bytes.fromhex(self.slots)), self.partition, self.replica
        )

    @property
    def whole_slots(self) -> SlotSet:
        return slots_from_bytes(bytes.fromhex(self.whole))


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one backup. `base` is the number of the backup that it adds to; None for a full backup.
    `hash_file` is the name of the file with the collection's hash, empty if the collection keeps none;
    `hash_sha256` is that file's digest. `started` is in seconds since 1970."""

    format: int
    number: int
    base: int | None
    cluster: str
    started: float
    collection: str
    incarnation: int
    code_space: CodeSpace
    indexing: Indexing
    hash_file: str
    hash_sha256: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """The number of live records that the collection had."""
        return sum(part.rows for part in self.parts)

    @property
    def records(self) -> int:
        """The number of records in the files, deletions included."""
        return sum(part.records for part in self.parts)

    @property
    def size(self) -> int:
        """The total size of the files with records, in bytes."""
        return sum(part.size for part in self.parts)


class Folder:
    """The backups of one collection below a URL. Raises InvalidRequest if the URL cannot be used."""

    def __init__(self, url: str, collection: str) -> None:
        check_collection_name(collection)
        with explained("url", url):
            self._files, root = fsspec.core.url_to_fs(url)
        self.url = url
        self.collection = collection
        self._root = f"{root.rstrip('/')}/{collection}"

    def numbers(self) -> list[int]:
        """The numbers of all backups, ascending, unfinished ones included."""
        self._files.invalidate_cache()
        try:
            with explained("url", self.url):
                found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = [path.rstrip("/").rpartition("/")[2] for path in found]
        return sorted(int(name) for name in names if name.isdecimal())

    def finished(self) -> list[int]:
        """The numbers of the finished backups, ascending."""
        numbers = self.numbers()
        with explained("url", self.url):
            return [number for number in numbers if self._files.exists(self._path(number, MANIFEST))]

    @contextlib.contextmanager
    def open(self, number: int, name: str, mode: str) -> Iterator[Any]:
        """Opens a file of a backup for the block. Raises Corruption if it is missing, InvalidRequest if it or the
        URL cannot be used."""
        path = self._path(number, name)
        try:
            with explained("url", path):
                if mode == "wb":
                    self._files.makedirs(self._path(number), exist_ok=True)
                opened = self._files.open(path, mode)
            with self._closing(opened, path) as file:
                yield file
        except OSError as error:
            if mode == "rb" and isinstance(error, FileNotFoundError):
                raise Corruption(f"{path}: is missing; the backup is incomplete") from None
            raise InvalidRequest(f"url: {path} cannot be used: {reason_of(error)}") from None

    @contextlib.contextmanager
    def _closing(self, file: Any, path: str) -> Iterator[Any]:
        """Closes a file after the block. An object store may report only then that it refuses the file."""
        try:
            yield file
        except BaseException:
            with contextlib.suppress(Exception):  # the block's error says more
                file.close()
            raise
        with explained("url", path):
            file.close()

    def write_manifest(self, manifest: Manifest) -> None:
        """Finishes a backup, atomically. Raises AlreadyExists if another backup took its number in the
        meantime."""
        with explained("url", self.url):
            is_taken = self._files.exists(self._path(manifest.number, MANIFEST))
        if is_taken:
            raise AlreadyExists(
                f"backup: another backup finished as number {manifest.number}; start this one again, and run"
                " one at a time"
            )
        document = dataclasses.asdict(manifest)
        data = json.dumps({**document, _CHECKSUM: _checksum(document)}, indent=1).encode()
        with self.open(manifest.number, _UNFINISHED, "wb") as file:
            file.write(data)
        with explained("url", self.url):
            self._files.mv(self._path(manifest.number, _UNFINISHED), self._path(manifest.number, MANIFEST))

    def remove(self, number: int) -> None:
        """Removes a backup: first its manifest, so that what an interruption leaves is not taken for a backup."""
        with explained("url", self.url), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(number, MANIFEST))
        with explained("url", self.url), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(number), recursive=True)

    def manifest(self, number: int) -> Manifest:
        """Reads a backup's manifest. Raises NotFound if there is no such backup, Corruption if it is damaged."""
        path = self._path(number, MANIFEST)
        try:
            with explained("url", path):
                data = self._files.cat_file(path)
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise Corruption(f"{path}: has format {document['format']!r}, this release reads {FORMAT}")
            if document.pop(_CHECKSUM) != _checksum(document):
                raise ValueError("its checksum does not match")
            indexing = document["indexing"]
            manifest = Manifest(
                **{
                    **document,
                    "code_space": CodeSpace(**document["code_space"]),
                    "indexing": Indexing(**{**indexing, "attributes": tuple(indexing["attributes"])}),
                    "parts": tuple(Part(**part) for part in document["parts"]),
                }
            )
            _check_parts(manifest.parts)
            return manifest
        except FileNotFoundError:
            raise NotFound(f"backup: {path} does not exist; `lookalike backup` creates one") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corruption(f"{path}: is damaged ({error}); restore an earlier backup with --number") from None

    def restorable(self, number: int) -> Manifest | None:
        """The backup's manifest if all its files, and those of the backups that it adds to, have their recorded
        size; None otherwise."""
        try:
            chain = self.chain(number)
            with explained("url", self.url):
                for manifest in chain:
                    for part in manifest.parts:
                        if self._files.size(self._path(manifest.number, part.file)) != part.size:
                            return None
        except (NotFound, Corruption, InvalidRequest, FileNotFoundError):
            return None
        return chain[-1]

    def chain(self, number: int) -> list[Manifest]:
        """The manifests of the backups that are needed to restore this one, from the full backup to this one."""
        manifests = [self.manifest(number)]
        while (base := manifests[-1].base) is not None:
            if base >= manifests[-1].number:
                raise Corruption(f"{self._path(manifests[-1].number, MANIFEST)}: names a later backup as its base")
            manifests.append(self.manifest(base))
        return manifests[::-1]

    def _path(self, number: int, name: str = "") -> str:
        return f"{self._root}/{number:06d}" + (f"/{name}" if name else "")


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _check_parts(parts: Sequence[Part]) -> None:
    """Raises ValueError unless every slot is in exactly one part, and all files are in the backup's own folder."""
    seen = no_slots()
    for part in parts:
        slots = part.mark.slots
        if (seen & slots).any() or (part.whole_slots & ~slots).any():
            raise ValueError("its parts overlap")
        if not _FILE.fullmatch(part.file):
            raise ValueError("a part has an invalid file name")
        seen |= slots
    if int(seen.sum()) != SLOTS:
        raise ValueError("slots are missing")
