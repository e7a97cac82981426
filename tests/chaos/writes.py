"""Owns what a writer sends: upserts and deletions by key, also under the condition of a version, changes of
attributes by key and by filter, and deletions by a filter.

A writer's keys are its own, so it knows what each of them holds, and what each of its writes does."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

from lookalike import Client
from tests.chaos.content import Content, Source, owner_of, thumbnail_of
from tests.chaos.history import Attributes, History, Write

GROUPS = 6
# By kind, how often it is sent.
_KINDS = {
    "upsert": 0.38,
    "delete": 0.12,
    "upsert-if": 0.1,
    "delete-if": 0.05,
    "set": 0.15,
    "set-if": 0.05,
    "set-matching": 0.1,
    "delete-matching": 0.05,
}
_NEED_QUORUM = frozenset(("upsert-if", "delete-if", "set-if", "set-matching", "delete-matching"))


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to send.

    Attributes:
        kind: The kind of write.
        writes: What it does, by key.
        send: Sends it, any number of times. Returns how many records it says that it wrote.
        count: How many records it writes.
    """

    kind: str
    writes: Sequence[Write]
    send: Callable[[Client], int]
    count: int


class Planner:
    """Plans the writes of one writer, and records them in the history."""

    def __init__(
        self, keys: Sequence[str], source: Source, history: History, rng: random.Random, is_quorum_fresh: bool
    ) -> None:
        """Creates a planner. is_quorum_fresh: Whether a read at quorum sees every acknowledged write; writes that
        depend on such a read are left out otherwise."""
        self._keys = keys
        self._source = source
        self._history = history
        self._rng = rng
        self._sequence = 0
        self._kinds = {
            kind: share for kind, share in _KINDS.items() if is_quorum_fresh or kind not in _NEED_QUORUM
        }

    def plan(self, now: float) -> Plan:
        """Plans a write that begins now."""
        (kind,) = self._rng.choices(list(self._kinds), list(self._kinds.values()))
        self._sequence += 1
        keys = self._rng.sample(self._keys, self._rng.randint(1, 8))
        if kind in ("upsert", "upsert-if"):
            return self._upsert(kind, keys, now)
        if kind in ("delete", "delete-if"):
            return self._delete(kind, keys, now)
        if kind in ("set", "set-if"):
            return self._set(kind, self._live(keys), None, now)
        group = self._rng.randrange(GROUPS)
        matching = [key for key in self._live(self._keys) if self._group(key) == group]
        if kind == "set-matching":
            return self._set(kind, matching, group, now)
        return self._delete_matching(matching, group, now)

    def _upsert(self, kind: str, keys: Sequence[str], now: float) -> Plan:
        source, number = self._source, self._sequence
        contents: list[Content] = [source.draw(self._rng) for _ in keys]
        writes = [
            self._history.begin(
                key, content.code, now, number, Attributes(number, self._rng.randrange(GROUPS), number),
                thumbnail_of(number),
            )
            for key, content in zip(keys, contents, strict=True)
        ]  # fmt: skip

        def send(client: Client) -> int:
            found = self._versions(client, keys) if kind == "upsert-if" else {}
            records = [
                content.record(write, source.fingerprint, found.get(write.key, 0) if kind == "upsert-if" else None)
                for write, content in zip(writes, contents, strict=True)
            ]
            return client.upsert(records, collection=source.collection)

        return Plan(kind, writes, send, len(keys))

    def _delete(self, kind: str, keys: Sequence[str], now: float) -> Plan:
        live = self._live(keys)
        writes = [self._history.begin(key, None, now, self._sequence) for key in keys]

        def send(client: Client) -> int:
            if kind == "delete":
                return client.delete(keys, collection=self._source.collection)
            found = self._versions(client, keys)
            if not found:
                return 0
            return client.delete(list(found), collection=self._source.collection, if_versions=list(found.values()))

        return Plan(kind, writes, send, len(live))

    def _set(self, kind: str, keys: Sequence[str], group: int | None, now: float) -> Plan:
        """Sets the note and the sequence number, or removes the note; the rest of the records must stay."""
        note = self._sequence if self._rng.random() < 0.6 else None
        writes = []
        for key in keys:
            last = self._history.last(key)
            assert last.attributes is not None, f"{key} is not live"
            attributes = dataclasses.replace(last.attributes, note=note)
            writes.append(self._history.begin(key, last.code, now, self._sequence, attributes, last.thumbnail))
        values = {"sequence": self._sequence, **({} if note is None else {"note": note})}
        removed = ["note"] if note is None else []
        collection = self._source.collection

        def send(client: Client) -> int:
            if not keys:
                return 0
            if group is not None:
                condition = {"writer": owner_of(self._keys[0]), "group": group}
                return client.change_attributes(values, removed, collection=collection, filter=condition)
            found = self._versions(client, keys) if kind == "set-if" else {}
            if kind == "set-if" and not found:
                return 0
            given = list(found) if found else list(keys)
            return client.change_attributes(
                values, removed, collection=collection, keys=given, if_versions=list(found.values())
            )

        return Plan(kind, writes, send, len(keys))

    def _delete_matching(self, keys: Sequence[str], group: int, now: float) -> Plan:
        writes = [self._history.begin(key, None, now, self._sequence) for key in keys]
        condition = {"writer": owner_of(self._keys[0]), "group": group}
        return Plan(
            "delete-matching",
            writes,
            lambda client: client.delete_by_filter(condition, collection=self._source.collection),
            len(keys),
        )

    def _live(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if not self._history.last(key).is_delete]

    def _group(self, key: str) -> int:
        attributes = self._history.last(key).attributes
        assert attributes is not None, f"{key} is not live"
        return attributes.group

    def _versions(self, client: Client, keys: Sequence[str]) -> dict[str, int]:
        """The versions of the records that exist now."""
        records = client.get(keys, collection=self._source.collection, consistency="quorum")
        return {record.key: record.version for record in records}
