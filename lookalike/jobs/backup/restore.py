"""Owns the way back: every file is verified before the first record is written. Records are written as new
ones, so they go wherever the cluster has them now, whatever its partitions were."""

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
    """Read every file that the backups name. Raises Corruption for the first that is not as it was written."""
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
    to_merge: bool,
    report: Report = lambda records: None,
) -> int:
    """Bring back what verified backups hold, as the collection `name`; returns its live records. to_merge: into a
    collection that is there, whose records of other keys stay. report: told the records done so far. Raises
    AlreadyExists, CodeSpaceMismatch, and Corruption when not all records are there in the end."""
    latest = chain[-1]
    is_new = _make(client, folder, latest, name, to_merge)
    fingerprint, features = latest.code_space.fingerprint, latest.indexing.features_text
    done = 0
    with ThreadPoolExecutor(_CALLS_AT_ONCE) as threads:
        # One backup after the other: of a key that several have, the last counts. Within one, each key stands
        # once.
        for manifest, slots in zip(chain, _slots_to_take(chain), strict=True):
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
            f"collection: {name!r} has {rows:,} records, the backup had {latest.rows:,}; was it written"
            " to meanwhile?"
        )
    return rows


def _count(client: Client, name: str, wanted: int) -> int:
    """The collection's live records, as soon as they are as many as wanted, or after some seconds: a replica that
    tells may have the last of them yet to come."""
    give_up = time.monotonic() + _COUNT_SECONDS
    while (rows := client.get_collection(name).rows) != wanted and time.monotonic() < give_up:
        time.sleep(0.2)
    return rows


def _make(client: Client, folder: Folder, latest: Manifest, name: str, to_merge: bool) -> bool:
    """Make the collection; returns whether it is new."""
    indexing = latest.indexing
    try:
        client.create_collection(
            name, code_space=latest.code_space, index=indexing.kind, index_attributes=indexing.attributes,
            features=indexing.features, feature_width=indexing.feature_width,
            hash_file=_hash_file(folder, latest),
        )  # fmt: skip
    except AlreadyExists:
        if not to_merge:
            raise AlreadyExists(
                f"collection: {name!r} exists; drop it, restore under another name with --into, or --merge"
            ) from None
        found = client.get_collection(name)
        if (found.code_space, found.indexing.features_text) != (latest.code_space, indexing.features_text):
            raise CodeSpaceMismatch(
                f"collection: {name!r} is of another code space or keeps other features than the backup; restore"
                " under another name with --into"
            ) from None
        return False
    return True


def _hash_file(folder: Folder, manifest: Manifest) -> bytes:
    """What the collection keeps of its hash; empty if nothing. Raises Corruption."""
    if not manifest.hash_file:
        return b""
    with folder.open(manifest.number, manifest.hash_file, "rb") as file:
        data: bytes = file.read()
    if hashlib.sha256(data).hexdigest() != manifest.hash_sha256:
        raise _damaged(manifest.number, manifest.hash_file)
    return data


def _slots_to_take(chain: Sequence[Manifest]) -> list[SlotSet]:
    """Of each backup the slots that no later one has whole."""
    wanted = np.ones(SLOTS, np.bool_)
    taken = []
    for manifest in reversed(chain):
        taken.append(wanted.copy())
        for part in manifest.parts:
            wanted &= ~part.whole_slots
    return taken[::-1]


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
    return Corruption(
        f"backup {number}: {file} is not as it was written; nothing of it was restored; restore an"
        " earlier one with --number"
    )
