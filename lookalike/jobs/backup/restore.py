"""Owns restoring a collection from its backups. Callers `verify` every file before they `restore`.

The cluster treats restored records as new writes, so its number of partitions may differ from that of the original
cluster."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np
from more_itertools import constrained_batches

from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.jobs.backup import part as parts
from lookalike.jobs.backup.folder import Folder, Manifest, Part
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, Corruption
from lookalike.model.records import SLOTS, VersionedRecord, record_id, slot_of

_BATCH_RECORDS = 1_000
_BATCH_BYTES = 8 * 1024 * 1024
_CALLS_AT_ONCE = 4
_COUNT_SECONDS = 10.0

Report = Callable[[int], None]


def verify(folder: Folder, chain: Sequence[Manifest]) -> None:
    """Reads every file of the backups. Raises Corruption for the first damaged file."""
    for manifest in chain:
        _hash_file(folder, manifest)
        for part in manifest.parts:
            with folder.open(manifest.number, part.file, "rb") as file:
                found, size = parts.digest(file)
            if (found, size) != (part.sha256, part.size):
                raise _damaged(manifest.number, part.file)


def restore(
    client: Client,
    folder: Folder,
    chain: Sequence[Manifest],
    name: str,
    merge: bool,
    report: Report = lambda records: None,
) -> int:
    """Restores verified backups.

    Args:
        client: A client of the cluster.
        folder: The backups' folder.
        chain: The backups to restore, oldest first, beginning with a full backup.
        name: The collection to restore to.
        merge: Whether to restore into an existing collection, which keeps its records with other keys.
        report: Called with the number of records written so far.

    Returns:
        The number of the collection's live records.

    Raises:
        AlreadyExists: If the collection exists, unless `merge` is set.
        CodeSpaceMismatch: If the existing collection has another code space, or stores other features.
        Corruption: If a new collection's number of records differs from the backup's.
    """
    latest = chain[-1]
    is_new = _create(client, folder, latest, name, merge)
    fingerprint, features = latest.code_space.fingerprint, latest.indexing.features_text
    done = 0
    with ThreadPoolExecutor(_CALLS_AT_ONCE) as threads:
        # Restore one backup after the other, because the last write of a key wins. In a backup, a key occurs once.
        for manifest, slots in zip(chain, _slots_to_restore(chain), strict=True):
            running: set[Future[int]] = set()
            for batch in _batches(_records(folder, manifest, slots)):
                running.add(threads.submit(client.restore, batch, name, fingerprint, features))
                if len(running) >= 2 * _CALLS_AT_ONCE:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    done += sum(future.result() for future in finished)
                    report(done)
            done += sum(future.result() for future in running)
            report(done)
    if not is_new:
        return client.get_collection(name).rows
    rows = _count(client, name, latest.rows)
    if rows != latest.rows:
        raise Corruption(
            f"collection: {name!r} has {rows:,} records, the backup had {latest.rows:,}; did another"
            " client write to the collection during the restore?"
        )
    return rows


def _count(client: Client, name: str, wanted: int) -> int:
    """Returns the number of the collection's live records. Waits a few seconds for the wanted number, because the
    replica that reports the number may lag behind."""
    give_up = time.monotonic() + _COUNT_SECONDS
    while (rows := client.get_collection(name).rows) != wanted and time.monotonic() < give_up:
        time.sleep(0.2)
    return rows


def _create(client: Client, folder: Folder, latest: Manifest, name: str, merge: bool) -> bool:
    """Creates the collection. Returns False if it exists."""
    indexing = latest.indexing
    try:
        client.create_collection(
            name, code_space=latest.code_space, index=indexing.kind, index_attributes=indexing.attributes,
            features=indexing.features, feature_width=indexing.feature_width,
            hash_file=_hash_file(folder, latest),
        )  # fmt: skip
    except AlreadyExists:
        if not merge:
            raise AlreadyExists(
                f"collection: {name!r} exists; drop it, restore under another name with --into, or --merge"
            ) from None
        found = client.get_collection(name)
        if (found.code_space, found.indexing.features_text) != (latest.code_space, indexing.features_text):
            raise CodeSpaceMismatch(
                f"collection: {name!r} has another code space or stores other features than the backup; restore"
                " under another name with --into"
            ) from None
        return False
    return True


def _hash_file(folder: Folder, manifest: Manifest) -> bytes:
    """Returns the content of the collection's hash file; empty if there is none. Raises Corruption."""
    if not manifest.hash_file:
        return b""
    with folder.open(manifest.number, manifest.hash_file, "rb") as file:
        data: bytes = file.read()
    if hashlib.sha256(data).hexdigest() != manifest.hash_sha256:
        raise _damaged(manifest.number, manifest.hash_file)
    return data


def _slots_to_restore(chain: Sequence[Manifest]) -> list[SlotSet]:
    """Returns, for each backup, the slots to restore from it: those that no later backup holds completely."""
    wanted = np.ones(SLOTS, np.bool_)
    slots = []
    for manifest in reversed(chain):
        slots.append(wanted.copy())
        for part in manifest.parts:
            wanted &= ~part.whole_slots
    return slots[::-1]


def _records(folder: Folder, manifest: Manifest, slots: SlotSet) -> Iterator[VersionedRecord]:
    for part in manifest.parts:
        if not (slots & part.mark.slots).any():
            continue
        for record in _read(folder, manifest.number, part):
            if slots[slot_of(record_id(record.key))]:
                yield record


def _read(folder: Folder, number: int, part: Part) -> Iterator[VersionedRecord]:
    with folder.open(number, part.file, "rb") as file:
        count = 0
        for record in parts.read_records(file, f"{number:06d}/{part.file}"):
            count += 1
            yield record
    if count != part.records:
        raise _damaged(number, part.file)


def _batches(records: Iterator[VersionedRecord]) -> Iterator[tuple[VersionedRecord, ...]]:
    return constrained_batches(records, _BATCH_BYTES, _BATCH_RECORDS, lambda record: record.size, strict=False)


def _damaged(number: int, file: str) -> Corruption:
    return Corruption(f"backup {number}: {file} is damaged; restore an earlier backup with --number")
