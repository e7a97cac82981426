"""Owns taking a backup: part by part, until every slot is in one.

A part is one state of one partition, and holds every write acknowledged before it was asked for. What came
since the last backup is told by the store itself (`lookalike.cluster.dump.Mark`); slots that another store has
now come whole."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from lookalike.client.sync_client import Client
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet, slots_to_bytes
from lookalike.jobs.backup.folder import FORMAT, Folder, Manifest, Part
from lookalike.jobs.backup.part import PartWriter
from lookalike.jobs.partitions import take_parts
from lookalike.model.errors import CodeSpaceMismatch

Report = Callable[[int, int], None]


def take(
    client: Client, folder: Folder, is_full: bool, patience_seconds: float, report: Report = lambda *_: None
) -> Manifest:
    """Back the folder's collection up. is_full: whole, even if there is a backup to add to. report: told the
    slots and the records done so far. A call that fails is tried again for so long."""
    started = time.time()
    collection = client.get_collection(folder.collection)
    hash_file = client.get_hash_file(folder.collection)
    finished = folder.finished()
    # On what cannot be restored nothing is built.
    base = folder.restorable(finished[-1]) if finished and not is_full else None
    if base is not None and base.incarnation != collection.incarnation:
        base = None
    since = [] if base is None else [part.mark for part in base.parts]
    number = max(folder.numbers(), default=0) + 1
    # Two backups at once may take one number; their files differ.
    token = secrets.token_hex(4)
    hash_name = f"hash-{token}.bin" if hash_file else ""
    if hash_file:
        with folder.open(number, hash_name, "wb") as file:
            file.write(hash_file)
    taker = _Taker(client, folder, number, token, collection.incarnation, since, report)
    parts = taker.take_all(patience_seconds)
    is_added = base is not None and any(part.whole != part.slots for part in parts)
    manifest = Manifest(
        FORMAT, number, base.number if base is not None and is_added else None, client.status().cluster, started,
        collection.name, collection.incarnation, collection.code_space, collection.indexing, hash_name,
        hashlib.sha256(hash_file).hexdigest() if hash_file else "", tuple(parts),
    )  # fmt: skip
    folder.write_manifest(manifest)
    return manifest


class _Taker:
    def __init__(
        self,
        client: Client,
        folder: Folder,
        number: int,
        token: str,
        incarnation: int,
        since: list[Mark],
        report: Report,
    ) -> None:
        self._client = client
        self._folder = folder
        self._number = number
        self._token = token
        self._incarnation = incarnation
        self._since = since
        self._report = report
        self._records = 0

    def take_all(self, patience_seconds: float) -> list[Part]:
        parts: list[Part] = []
        done = 0

        def take(missing: SlotSet) -> SlotSet:
            nonlocal done
            part = self._take(missing, len(parts))
            parts.append(part)
            self._records += part.records
            done += int(part.mark.slots.sum())
            self._report(done, self._records)
            return part.mark.slots

        take_parts(take, patience_seconds)
        return parts

    def _take(self, missing: SlotSet, place: int) -> Part:
        """The part of one partition. One that fails is written anew, over itself."""
        name = f"part-{place:04d}-{self._token}.pb.gz"
        head: Head | None = None
        with self._folder.open(self._number, name, "wb") as file:
            writer = PartWriter(file)
            for found in self._client.backup(self._folder.collection, missing, self._since):
                if isinstance(found, Head):
                    head = found
                else:
                    writer.write(found)
            writer.close()
        assert head is not None, "a dump begins with its head"
        if head.incarnation != self._incarnation:
            raise CodeSpaceMismatch(
                f"collection: {self._folder.collection!r} was made anew meanwhile; start the backup again"
            )
        mark = head.mark
        return Part(
            name, writer.sha256, writer.size, writer.records, head.rows, slots_to_bytes(mark.slots).hex(),
            slots_to_bytes(head.whole).hex(), mark.store, mark.number, mark.partition, mark.replica,
        )  # fmt: skip
