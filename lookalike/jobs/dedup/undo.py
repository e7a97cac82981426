"""Owns taking back what a run did, by its undo list: files are moved back and records are stored again, or a tag
is removed.

No file is overwritten and no record that exists is replaced, so that an undo can be repeated, after a crash too. A
file is moved back before its record is stored. A deleted file does not come back, nor does its record."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from more_itertools import chunked

from lookalike.client.sync_client import Client
from lookalike.files import moves
from lookalike.jobs.dedup.apply import BATCH, TAG, tagged
from lookalike.jobs.dedup.originals import MISSING, original_of
from lookalike.jobs.dedup.undo_list import Entry, Run, read_entries, read_run
from lookalike.jobs.dedup.whole_records import read_whole
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection


@dataclasses.dataclass(slots=True)
class Undone:
    """What was taken back. files: moved back. records: stored again, or without the tag. unchanged: records that
    were as before. skipped: records by the reason why they do not return."""

    files: int = 0
    records: int = 0
    unchanged: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)


def undo(
    client: Client, path: Path, retry_seconds: float, report: Callable[[int], None] = lambda records: None
) -> Undone:
    """Takes back a run.

    Args:
        client: A client of the cluster.
        path: The undo list.
        retry_seconds: How long to retry while a partition is unavailable.
        report: Called with the number of records done so far.

    Raises:
        InvalidRequest: If the file is not an undo list, or is damaged.
        CodeSpaceMismatch: If the collection has other codes now.
    """
    run = read_run(path)
    taker = _Undo(client, client.get_collection(run.collection), run, retry_seconds)
    done = 0
    for entries in chunked(read_entries(path), BATCH):
        if run.kind == "tag":
            taker.untag(entries)
        else:
            taker.bring_back(entries)
        done += len(entries)
        report(done)
    return taker.undone


class _Undo:
    def __init__(self, client: Client, collection: Collection, run: Run, retry_seconds: float) -> None:
        collection.code_space.require(run.fingerprint, "the undo list")
        collection.indexing.require_features(run.features, "the undo list")
        self._client = client
        self._collection = collection
        self._run = run
        self._retry_seconds = retry_seconds
        self.undone = Undone()

    def bring_back(self, entries: Sequence[Entry]) -> None:
        """Moves files back, and stores the records of files that are in their places."""
        keys = [entry.record.key for entry in entries]
        stored = {record.key for record in self._client.get(keys, collection=self._collection.name)}
        missing = []
        for entry in entries:
            if reason := self._bring_file_back(entry):
                self.undone.skipped[reason] += 1
            elif entry.record.key in stored:
                self.undone.unchanged += 1
            else:
                missing.append(entry.record)
        if missing:
            self._client.restore(missing, self._collection.name, self._run.fingerprint, self._run.features)
            self.undone.records += len(missing)

    def untag(self, entries: Sequence[Entry]) -> None:
        """Gives records the value of the tag that they had before."""
        keys = [entry.record.key for entry in entries]
        stored = read_whole(self._client, self._collection, keys, self._retry_seconds)
        changed = []
        for entry in entries:
            before = json.loads(entry.record.attributes).get(TAG)
            record = stored.get(entry.record.key)
            now = None if record is None else json.loads(record.attributes or "{}").get(TAG)
            if record is None:
                self.undone.skipped["the record is gone"] += 1
            elif now == before:
                self.undone.unchanged += 1
            elif now != entry.tag:
                self.undone.skipped["the record has another tag now"] += 1
            else:
                changed.append(tagged(record, before))
        if changed:
            self._client.restore(changed, self._collection.name, self._run.fingerprint, self._run.features)
            self.undone.records += len(changed)

    def _bring_file_back(self, entry: Entry) -> str:
        """Moves the file back if it was moved. Returns why it is not in its place; empty if it is."""
        original = original_of(entry.record.key, json.loads(entry.record.attributes))
        if original is None or str(original.path) != entry.path:
            raise InvalidRequest(
                f"undo: the record {entry.record.key!r} in the list does not name {entry.path}; restore the list"
            )
        try:
            reason = original.why_not_original()
            if reason != MISSING or not entry.moved_to:
                if not reason and entry.moved_to:
                    _remove_second_name(original.path, Path(entry.moved_to))
                return reason
            moved = dataclasses.replace(original, path=Path(entry.moved_to))
            if reason := moved.why_not_original():
                return f"where it was moved to, {reason}"
            moves.move(moved.path, original.path)
            self.undone.files += 1
            return ""
        except OSError as error:
            return f"the file cannot be moved back: {error.strerror}"


def _remove_second_name(path: Path, moved_to: Path) -> None:
    """Removes the new name of a file that a crash left with both names."""
    if os.path.lexists(moved_to) and not moved_to.is_symlink() and moved_to.samefile(path):
        moved_to.unlink()
