"""Owns taking a backup: one part per partition, until every slot is covered.

A part is a consistent state of one partition and holds every write that was acknowledged before the part was
requested. Each shard's store reports its own changes since the last backup (`lookalike.cluster.dump.Mark`). Slots
that have moved to another store are backed up in full."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence

from lookalike.client.sync_client import Client
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet, slots_to_bytes
from lookalike.jobs.backup.folder import FORMAT, Folder, Manifest, Part
from lookalike.jobs.backup.part import PartWriter
from lookalike.jobs.partitions import read_all_slots
from lookalike.model.errors import CodeSpaceMismatch
from lookalike.model.records import Collection

Report = Callable[[int, int], None]


def take(
    client: Client, folder: Folder, full: bool, retry_seconds: float, report: Report = lambda *_: None
) -> Manifest:
    """Backs up the collection of `folder` without interrupting its service.

    Args:
        client: A client of the cluster.
        folder: The folder of the collection's backups.
        full: Whether to back up all records, even if an earlier backup could serve as the base.
        retry_seconds: How long to retry while a partition is unavailable.
        report: Called with the number of slots and the number of records that are done so far.

    Returns:
        The manifest of the finished backup.

    Raises:
        CodeSpaceMismatch: If the collection was recreated during the backup.
        AlreadyExists: If another backup finished at the same time.
    """
    started = time.time()
    collection = client.get_collection(folder.collection)
    hash_file = client.get_hash_file(folder.collection)
    base = None if full else _base(folder, collection)
    number = max(folder.numbers(), default=0) + 1
    # Two concurrent backups may choose the same number, but their files have different names.
    token = secrets.token_hex(4)
    hash_name = f"hash-{token}.bin" if hash_file else ""
    if hash_file:
        with folder.open(number, hash_name, "wb") as file:
            file.write(hash_file)
    backup = _Backup(client, folder, number, token, collection.incarnation, base)
    parts = backup.read_parts(retry_seconds, report)
    is_added = base is not None and any(part.whole != part.slots for part in parts)
    manifest = Manifest(
        FORMAT, number, base.number if base is not None and is_added else None, client.status().cluster, started,
        collection.name, collection.incarnation, collection.code_space, collection.indexing, hash_name,
        hashlib.sha256(hash_file).hexdigest() if hash_file else "", tuple(parts),
    )  # fmt: skip
    folder.write_manifest(manifest)
    return manifest


def _base(folder: Folder, collection: Collection) -> Manifest | None:
    """The last backup, if it can be restored and is of this incarnation of the collection."""
    finished = folder.finished()
    base = folder.restorable(finished[-1]) if finished else None
    return base if base is not None and base.incarnation == collection.incarnation else None


class _Backup:
    """One backup that is being taken. `base` is the backup to which it adds changes, if any."""

    def __init__(
        self, client: Client, folder: Folder, number: int, token: str, incarnation: int, base: Manifest | None
    ) -> None:
        self._client = client
        self._folder = folder
        self._number = number
        self._token = token
        self._incarnation = incarnation
        self._since: Sequence[Mark] = [] if base is None else [part.mark for part in base.parts]

    def read_parts(self, retry_seconds: float, report: Report) -> list[Part]:
        parts: list[Part] = []

        def read(missing: SlotSet) -> SlotSet:
            slots = sum(int(one.mark.slots.sum()) for one in parts)
            records = sum(one.records for one in parts)
            part = self._read_part(missing, len(parts), lambda more: report(slots, records + more))
            parts.append(part)
            report(slots + int(part.mark.slots.sum()), records + part.records)
            return part.mark.slots

        read_all_slots(read, retry_seconds)
        return parts

    def _read_part(self, missing: SlotSet, index: int, report: Callable[[int], None]) -> Part:
        """Reads one partition and writes its part. A part that fails is overwritten by the next attempt.

        `report` is called with the number of the part's records so far."""
        name = f"part-{index:04d}-{self._token}.pb.gz"
        head: Head | None = None
        with self._folder.open(self._number, name, "wb") as file:
            writer = PartWriter(file)
            for found in self._client.backup(self._folder.collection, missing, self._since):
                if isinstance(found, Head):
                    head = found
                else:
                    writer.write(found)
                    report(writer.records)
            writer.close()
        assert head is not None, "a dump begins with its head"
        if head.incarnation != self._incarnation:
            raise CodeSpaceMismatch(
                f"collection: {self._folder.collection!r} was recreated in the meantime; start the backup again"
            )
        mark = head.mark
        return Part(
            name, writer.sha256, writer.size, writer.records, head.rows, slots_to_bytes(mark.slots).hex(),
            slots_to_bytes(head.whole).hex(), mark.store, mark.number, mark.partition, mark.replica,
        )  # fmt: skip
