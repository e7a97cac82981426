"""Owns what is done to the records that a group does not keep: their files are moved or deleted and the records
with them, or the records get an attribute.

Nothing is done to a record unless its group's kept record still exists and, for files, the kept file too, and
unless the record and its file are those that were compared. What is left alone is counted by reason.

The order makes a crash harmless. For up to BATCH records at a time, (1) the whole records and what happens to them
are written to the undo list and synced; (2) one file after the other is moved or deleted; (3) the records are
deleted. After a crash, files may have been moved or deleted whose records still exist. The same command completes
these (a moved file is found at its new place, and a deleted one leaves only its record to delete), and the undo
list takes them back as well."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from more_itertools import chunked

from lookalike.client.sync_client import Client
from lookalike.files import moves
from lookalike.jobs.dedup.facts import FileFacts
from lookalike.jobs.dedup.keep import Member
from lookalike.jobs.dedup.originals import MISSING, Original, original_of
from lookalike.jobs.dedup.undo_list import Entry, Kind, Run, UndoList
from lookalike.jobs.dedup.whole_records import read_whole
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import (
    Collection,
    StoredRecord,
    VersionedRecord,
    attributes_text,
    encode_attributes,
    record_id,
    slot_of,
)

BATCH = 256
# The attribute of a tagged record: the key that its group keeps.
TAG = "duplicate_of"
_EXPECTED = "move:DIR, delete or tag"

Judged = Sequence[Sequence[Member]]


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """What to do to the records that are not kept. folder: where files are moved to."""

    kind: Kind
    folder: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Action:
        """Parses move:DIR, delete or tag. Raises InvalidRequest for anything else."""
        kind, _, folder = text.partition(":")
        if kind == "move" and folder:
            return cls("move", Path(os.path.abspath(folder)))
        if text == "delete":
            return cls("delete")
        if text == "tag":
            return cls("tag")
        raise InvalidRequest(f"apply: is {text!r}; use {_EXPECTED}")


@dataclasses.dataclass(slots=True)
class Applied:
    """What a run did, or would do. done: records; bytes: of their files. skipped: records by the reason why
    nothing was done to them."""

    done: int = 0
    bytes: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """What happens to one record. original, kept: the two files; None for tags."""

    entry: Entry
    original: Original | None = None
    kept: Original | None = None
    bytes: int = 0


def apply(
    client: Client,
    collection: Collection,
    groups: Judged,
    facts: FileFacts,
    action: Action,
    undo: UndoList | None,
    retry_seconds: float,
    report: Callable[[int], None] = lambda records: None,
) -> Applied:
    """Acts on all records that are not kept.

    Args:
        client: A client of the cluster.
        collection: The collection.
        groups: The groups.
        facts: The facts of the snapshot that the groups are from.
        action: What to do.
        undo: Where to write what happens before it does; None to check everything and do nothing.
        retry_seconds: How long to retry while a partition is unavailable.
        report: Called with the number of records done so far.

    Raises:
        InvalidRequest: Before anything is done, if a file is not a local one or would be moved to where it would
            be ingested again.
    """
    if action.kind != "tag":
        require_local(client, collection, groups, action)
    return _Run(client, collection, facts, action, undo, retry_seconds).all(groups, report)


class _Run:
    def __init__(
        self,
        client: Client,
        collection: Collection,
        facts: FileFacts,
        action: Action,
        undo: UndoList | None,
        retry_seconds: float,
    ) -> None:
        self._client = client
        self._collection = collection
        self._facts = facts
        self._action = action
        self._undo = undo
        self._retry_seconds = retry_seconds
        self._applied = Applied()

    def all(self, groups: Judged, report: Callable[[int], None]) -> Applied:
        # Records of one slot together: where features are stored, whole slots are read.
        pairs = sorted(_pairs(groups), key=lambda pair: slot_of(record_id(pair[0].key)))
        done = 0
        for batch in chunked(pairs, BATCH):
            self._batch(batch)
            done += len(batch)
            report(done)
        return self._applied

    def _batch(self, pairs: Sequence[tuple[Member, str]]) -> None:
        records = self._read([member.key for member, _ in pairs])
        kept = self._read_kept(pairs)
        steps: list[_Step] = []
        for member, key in pairs:
            step = self._checked(member, key, records, kept)
            if isinstance(step, str):
                self._applied.skipped[step] += 1
            else:
                steps.append(step)
        if self._undo is None:
            done = steps
        elif self._action.kind == "tag":
            done = self._tag(self._undo, steps, self._untagged(kept))
        else:
            done = self._move_or_delete(self._undo, steps)
        for step in done:
            self._applied.done += 1
            self._applied.bytes += step.bytes

    def _read(self, keys: Sequence[str]) -> Mapping[str, VersionedRecord]:
        if self._undo is not None:
            return read_whole(self._client, self._collection, keys, self._retry_seconds)
        found = self._client.get(keys, collection=self._collection.name)
        return {one.key: _versioned(one) for one in found}

    def _read_kept(self, pairs: Sequence[tuple[Member, str]]) -> Mapping[str, StoredRecord]:
        keys = list(dict.fromkeys(key for _, key in pairs))
        return {one.key: one for one in self._client.get(keys, collection=self._collection.name)}

    def _checked(
        self,
        member: Member,
        kept_key: str,
        records: Mapping[str, VersionedRecord],
        kept: Mapping[str, StoredRecord],
    ) -> _Step | str:
        """The step for a record, or the reason why nothing may be done to it."""
        record = records.get(member.key)
        if record is None or record.version != self._facts.versions[member.row]:
            return "the record has changed in the meantime"
        if kept_key not in kept:
            return "the kept record is gone"
        attributes = json.loads(record.attributes or "{}")
        if self._action.kind == "tag":
            return self._tag_step(record, attributes, kept_key)
        original = original_of(member.key, attributes)
        kept_original = original_of(kept_key, kept[kept_key].attributes)
        if original is None or kept_original is None:
            return "the record has changed in the meantime"
        target = "" if self._action.folder is None else str(self._action.folder / original.below)
        if reason := _obstacle(original, kept_original, target):
            return reason
        entry = Entry(record, kept_key, str(original.path), target)
        return _Step(entry, original, kept_original, _size(original))

    def _tag_step(self, record: VersionedRecord, attributes: Mapping[str, Any], kept_key: str) -> _Step | str:
        if attributes.get(TAG) == kept_key:
            return "the record has this tag already"
        try:
            attributes_text({**attributes, TAG: kept_key})
        except InvalidRequest:
            return "the record's attributes have no room for a tag"
        return _Step(Entry(record, kept_key, tag=kept_key))

    def _move_or_delete(self, undo: UndoList, steps: list[_Step]) -> list[_Step]:
        """Moves or deletes files, then deletes their records. Returns the steps that were done."""
        if steps:
            undo.append(step.entry for step in steps)
        done = [step for step in steps if self._act(step)]
        if done:
            self._client.delete([step.entry.record.key for step in done], collection=self._collection.name)
        return done

    def _act(self, step: _Step) -> bool:
        """Moves or deletes a file. Returns whether its record is to be deleted."""
        original, kept, target = step.original, step.kept, step.entry.moved_to
        assert original is not None, "a step of files has both"
        assert kept is not None, "a step of files has both"
        try:
            if reason := _obstacle(original, kept, target):
                self._applied.skipped[reason] += 1
                return False
            if os.path.lexists(original.path):
                if target:
                    moves.move(original.path, Path(target))
                else:
                    original.path.unlink()
        except OSError as error:
            self._applied.skipped[f"the file cannot be {self._action.kind}d: {error.strerror}"] += 1
            return False
        return True

    def _untagged(self, kept: Mapping[str, StoredRecord]) -> list[Entry]:
        """Removes the tags of kept records, so that no two records name each other."""
        tagged = [key for key, record in kept.items() if TAG in record.attributes]
        return [Entry(record, key) for key, record in self._read(tagged).items()] if tagged else []

    def _tag(self, undo: UndoList, steps: list[_Step], untagged: Sequence[Entry]) -> list[_Step]:
        """Sets and removes tags. Returns the steps that were done."""
        if entries := [*untagged, *(step.entry for step in steps)]:
            undo.append(entries)
            run = Run.of(self._action.kind, self._collection)
            records = [tagged(entry.record, entry.tag) for entry in entries]
            self._client.restore(records, self._collection.name, run.fingerprint, run.features)
        return steps


def tagged(record: VersionedRecord, tag: str | None) -> VersionedRecord:
    """The record with another value of the tag, or without it."""
    attributes = json.loads(record.attributes or "{}")
    attributes.pop(TAG, None)
    if tag is not None:
        attributes[TAG] = tag
    return dataclasses.replace(record, attributes=encode_attributes(attributes))


def _pairs(groups: Judged) -> Iterator[tuple[Member, str]]:
    """Each record that is not kept, with the key that its group keeps."""
    for group in groups:
        kept = next(member.key for member in group if member.is_kept)
        yield from ((member, kept) for member in group if not member.is_kept)


def require_local(client: Client, collection: Collection, groups: Judged, action: Action) -> None:
    """Raises InvalidRequest unless the records of all groups are local files that may be moved to the folder."""
    keys = itertools.chain.from_iterable((member.key for member in group) for group in groups)
    for part in chunked(keys, 1_000):
        for record in client.get(part, collection=collection.name):
            original = original_of(record.key, record.attributes)
            if original is None:
                source = record.attributes.get("source")
                url = source.get("url") if isinstance(source, dict) else None
                raise InvalidRequest(
                    f"apply: {action.kind} needs local files, and record {record.key!r} comes from"
                    f" {url or 'no file'}; use --apply tag, or --output and the tools of its store"
                )
            if action.folder is not None and original.folder is not None:
                _require_outside(action.folder, original.folder)


def _require_outside(folder: Path, ingested: Path) -> None:
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(ingested)):
        raise InvalidRequest(
            f"apply: {folder} is inside {ingested}, from where its files would be ingested again; name a folder"
            " outside"
        )


def _obstacle(original: Original, kept: Original, target: str) -> str:
    """Why a record and its file are left alone; empty if they are not."""
    try:
        if reason := kept.why_not_whole():
            return f"kept record: {reason}"
        if os.path.realpath(original.path) == os.path.realpath(kept.path):
            return "the file is the kept one by another path"
        if (reason := original.why_not_original()) == MISSING:
            return "" if _is_done(original, target) else MISSING
        if not reason and target:
            moves.is_copied(original.path, Path(target))
        return reason
    except FileExistsError:
        return "another file is at the target"
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"


def _is_done(original: Original, target: str) -> bool:
    """Whether a missing file was moved or deleted by a run that crashed before it deleted the record. A file whose
    folder is missing too may be on a disk that is not mounted."""
    if not target:
        return original.path.parent.is_dir()
    moved = dataclasses.replace(original, path=Path(target))
    return not moved.why_not_original()


def _size(original: Original) -> int:
    try:
        return original.path.stat().st_size
    except FileNotFoundError:
        return 0


def _versioned(record: StoredRecord) -> VersionedRecord:
    return VersionedRecord(record.key, record.code, encode_attributes(record.attributes), record.version)
