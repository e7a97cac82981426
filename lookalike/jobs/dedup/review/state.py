"""Owns what a review knows and does: which records of each group are gone, removing more of them, and undoing the
last removal. Each removal has an undo list of its own, which `lookalike dedup --undo` reads as well."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from more_itertools import chunked

from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.apply import TAG, Action, apply
from lookalike.jobs.dedup.facts import FileFacts
from lookalike.jobs.dedup.keep import Member
from lookalike.jobs.dedup.undo import undo
from lookalike.jobs.dedup.undo_list import Run, UndoList, free_path
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection, StoredRecord
from lookalike.model.thumbnails import format_of

# With thumbnails and attributes, so many records fit into a message.
_KEYS_A_CALL = 300


@dataclasses.dataclass(slots=True)
class _Group:
    members: Sequence[Member]
    gone: set[str] = dataclasses.field(default_factory=set)

    @property
    def present(self) -> list[Member]:
        return [member for member in self.members if member.key not in self.gone]


class Review:
    """A review of groups of near-duplicates.

    Args:
        client: A client of the cluster.
        collection: The collection.
        groups: The groups.
        facts: The facts of the snapshot that the groups are from.
        action: What to do with records that go.
        undo_list: The path of the undo list of the first removal; later ones get a number.
        retry_seconds: How long to retry while a partition is unavailable.
    """

    def __init__(
        self,
        client: Client,
        collection: Collection,
        groups: Sequence[Sequence[Member]],
        facts: FileFacts,
        action: Action,
        undo_list: str,
        retry_seconds: float,
    ) -> None:
        self._client = client
        self._collection = collection
        self._groups = [_Group(members) for members in groups]
        self._facts = facts
        self._action = action
        self._undo_list = undo_list
        self._retry_seconds = retry_seconds
        # The undo lists of the removals, and their groups: the last is undone first.
        self._done: list[tuple[Path, list[int]]] = []

    @property
    def can_undo(self) -> bool:
        """Whether a removal can be undone."""
        return bool(self._done)

    def page(self, start: int, count: int) -> dict[str, Any]:
        """Returns `count` groups from the one with number `start` on, as JSON for the page."""
        shown = self._groups[start : start + count]
        keys = [member.key for group in shown for member in group.members]
        found = self._stored(keys, include_thumbnails=True)
        return {
            "total": len(self._groups),
            "can_undo": self.can_undo,
            "action": self._action.kind,
            "groups": [
                {"id": start + place, "records": [_shown(member, group, found) for member in group.members]}
                for place, group in enumerate(shown)
            ],
        }

    def remove(self, wanted: Mapping[int, Sequence[str]]) -> dict[str, Any]:
        """Removes records of groups.

        Args:
            wanted: The keys to remove, by group.

        Raises:
            InvalidRequest: If a group or record does not exist, or none of a group would stay.
        """
        judged = [self._judged(number, keys) for number, keys in wanted.items()]
        undo = UndoList(free_path(None, self._undo_list), Run.of(self._action.kind, self._collection))
        try:
            applied = apply(
                self._client, self._collection, judged, self._facts, self._action, undo, self._retry_seconds
            )
        finally:
            undo.close()
        if applied.done:
            self._done.append((undo.path, list(wanted)))
        return self._changes(wanted, applied.skipped)

    def undo(self) -> dict[str, Any]:
        """Takes the last removal back. Raises InvalidRequest if there is none."""
        if not self._done:
            raise InvalidRequest("undo: nothing was removed")
        path, numbers = self._done[-1]
        undone = undo(self._client, path, self._retry_seconds)
        self._done.pop()
        return self._changes(numbers, undone.skipped)

    def _judged(self, number: int, keys: Sequence[str]) -> list[Member]:
        """The records of a group that go, and the one that is kept: the best of those that stay."""
        if not 0 <= number < len(self._groups):
            raise InvalidRequest(f"groups: there is no group {number}")
        present = self._groups[number].present
        if unknown := set(keys) - {member.key for member in present}:
            raise InvalidRequest(f"keys: {min(unknown)!r:.200} is not in group {number}, or was removed")
        stay = [member for member in present if member.key not in set(keys)]
        if not stay:
            raise InvalidRequest(f"keys: none of group {number} would stay; keep one")
        kept = next((member for member in stay if member.is_kept), stay[0])
        go = [dataclasses.replace(member, is_kept=False) for member in present if member.key in set(keys)]
        return [dataclasses.replace(kept, is_kept=True), *go]

    def _changes(self, numbers: Iterable[int], skipped: Mapping[str, int]) -> dict[str, Any]:
        """What is gone of groups now, and what was left alone."""
        changed = [self._groups[number] for number in numbers]
        stored = self._stored([member.key for group in changed for member in group.members])
        for group in changed:
            group.gone = {member.key for member in group.members if self._is_gone(stored.get(member.key))}
        return {
            "groups": [{"id": number, "gone": sorted(self._groups[number].gone)} for number in numbers],
            "error": "; ".join(f"{count:,} left alone: {reason}" for reason, count in skipped.items()),
            "can_undo": self.can_undo,
        }

    def _is_gone(self, record: StoredRecord | None) -> bool:
        return record is None or (self._action.kind == "tag" and TAG in record.attributes)

    def _stored(self, keys: Sequence[str], include_thumbnails: bool = False) -> dict[str, StoredRecord]:
        found: dict[str, StoredRecord] = {}
        for part in chunked(keys, _KEYS_A_CALL):
            records = self._client.get(
                part, collection=self._collection.name, include_thumbnails=include_thumbnails
            )
            found |= {record.key: record for record in records}
        return found


def _shown(member: Member, group: _Group, found: Mapping[str, StoredRecord]) -> dict[str, Any]:
    record = found.get(member.key)
    source = record.attributes.get("source") if record else None
    return {
        "key": member.key,
        "distance": member.distance,
        "width": member.width,
        "height": member.height,
        "bytes": member.bytes,
        "format": source.get("format", "") if isinstance(source, dict) else "",
        "keep": member.is_kept,
        "exact": member.is_exact,
        "gone": member.key in group.gone,
        "thumbnail": _data_url(record.thumbnail) if record and record.thumbnail else "",
    }


def _data_url(thumbnail: bytes) -> str:
    return f"data:image/{format_of(thumbnail)};base64,{base64.b64encode(thumbnail).decode()}"
