"""Owns the load on records that several writers change at once, and its check.

Counters add one to the attribute `count`, each under the condition that the record is as they read it; setters
set an attribute of their own. So of the counters that read one version at most one may succeed, no count may be
lost, and neither may an attribute of a setter. A counter that was refused must have written nothing."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator

from lookalike import Client, Record
from lookalike.model.errors import LookalikeError, VersionConflict
from lookalike.model.records import StoredRecord
from tests.chaos.call_stats import CallStats
from tests.chaos.checker import Finding, Kind, Span
from tests.chaos.content import BITS, code_bytes, code_number
from tests.chaos.verdict import Tally

COLLECTION = "chaos-shared"
_KEYS = [f"shared-{number}" for number in range(6)]
_COUNTERS, _SETTERS = 3, 2


class SharedRecords:
    """The records, and what is known about them."""

    def __init__(self, client: Client, tally: Tally, stats: CallStats) -> None:
        client.create_collection(COLLECTION, bits=BITS)
        self.codes = {key: code for code, key in enumerate(_KEYS)}
        client.upsert(
            [Record(key, code=code_bytes(code), attributes={"count": 0}) for key, code in self.codes.items()],
            collection=COLLECTION,
        )
        self._tally = tally
        self._stats = stats
        self._lock = threading.Lock()
        # By key and attribute: the highest value that was acknowledged, and the highest that was sent.
        self._acknowledged: dict[tuple[str, str], int] = {(key, "count"): 0 for key in _KEYS}
        self._sent: dict[tuple[str, str], int] = dict(self._acknowledged)
        # The counters' attempts, by their text: whether each was refused.
        self._refused: set[str] = set()
        self._winners: dict[tuple[str, int], str] = {}

    def writers(self, seed: int) -> Iterator[tuple[SharedWriter, random.Random]]:
        """Yields the writers, each with its random numbers."""
        for number in range(_COUNTERS):
            rng = random.Random(f"counter {number} {seed}")
            yield Counter(self, f"counter{number}", rng), rng
        for number in range(_SETTERS):
            rng = random.Random(f"setter {number} {seed}")
            yield Setter(self, f"setter{number}", rng), rng

    def read(self, name: str, client: Client) -> bool:
        """Reads and checks all records; returns whether there was an answer."""
        return self.get(name, client, _KEYS) is not None

    def get(self, name: str, client: Client, keys: list[str]) -> dict[str, StoredRecord] | None:
        """Reads and checks records; None without an answer."""
        with self._lock:
            least = dict(self._acknowledged)
        began = time.monotonic()
        found = self.call("shared-get", lambda: client.get(keys, collection=COLLECTION, consistency="quorum"))
        if found is None:
            return None
        with self._lock:
            most, refused = dict(self._sent), set(self._refused)
        span = Span(began, time.monotonic())
        by_key = {record.key: record for record in found}
        for key in keys:
            record = by_key.get(key)
            findings = (
                [Finding(Kind.LOST, key, "absent")]
                if record is None
                else list(self._check(record, least, most, refused))
            )
            self._tally.add(findings, span, f"get of a shared record through {name}")
        return by_key

    def _check(
        self,
        record: StoredRecord,
        least: dict[tuple[str, str], int],
        most: dict[tuple[str, str], int],
        refused: set[str],
    ) -> Iterator[Finding]:
        key, attributes = record.key, record.attributes
        if code_number(record.code) != self.codes[key]:
            yield Finding(Kind.CORRUPTED, key, f"has code {record.code.hex()}")
        if attributes.get("by") in refused:
            yield Finding(Kind.RESURRECTED, key, f"shows a refused write: {attributes}")
        for (owner, name), value in most.items():
            if owner != key:
                continue
            floor, seen = least.get((key, name), -1), attributes.get(name, -1)
            if not floor <= seen <= value:
                kind = Kind.LOST if seen < floor else Kind.CORRUPTED
                yield Finding(kind, key, f"{name} is {seen}, permitted: {floor}..{value}")

    def sending(self, key: str, name: str, value: int) -> None:
        """Records that a value is sent."""
        with self._lock:
            self._sent[key, name] = max(value, self._sent.get((key, name), -1))

    def acknowledged(self, key: str, name: str, value: int, by: str = "") -> None:
        """Records that a value was acknowledged. Of two counters that wrote the same count, one write is lost."""
        with self._lock:
            self._acknowledged[key, name] = max(value, self._acknowledged.get((key, name), -1))
            winner = self._winners.setdefault((key, value), by) if by else by
        if winner != by:
            now = time.monotonic()
            text = f"count {value} was acknowledged to {winner} and to {by}"
            self._tally.add([Finding(Kind.LOST, key, text)], Span(now, now), "conditional upsert")

    def refused(self, by: str) -> None:
        """Records that a counter's attempt was refused."""
        with self._lock:
            self._refused.add(by)

    def call(self, operation: str, send: Callable[[], list[StoredRecord] | int]) -> list[StoredRecord] | None:
        """Counts a call; returns its records, or None if it failed. A conflict is raised."""
        phase, began = self._stats.phase, time.monotonic()
        try:
            answer = send()
        except VersionConflict:
            self._stats.succeeded("conflict", phase, time.monotonic() - began)
            raise
        except LookalikeError as error:
            self._stats.failed(operation, phase, error)
            return None
        self._stats.succeeded(operation, phase, time.monotonic() - began)
        return answer if isinstance(answer, list) else []


@dataclasses.dataclass(slots=True)
class SharedWriter:
    """One of the writers."""

    records: SharedRecords
    name: str
    rng: random.Random
    sent: int = 0

    def write(self, coordinator: str, client: Client) -> None:
        """Writes once."""
        raise NotImplementedError


class Counter(SharedWriter):
    """Adds one to a record's count, if nobody wrote the record since it was read."""

    def write(self, coordinator: str, client: Client) -> None:
        key = self.rng.choice(_KEYS)
        found = self.records.get(coordinator, client, [key])
        if found is None or key not in found:
            return
        self.sent += 1
        by, value = f"{self.name} #{self.sent}", found[key].attributes["count"] + 1
        attributes = {**found[key].attributes, "count": value, "by": by}
        record = Record(key, code=found[key].code, attributes=attributes, if_version=found[key].version)
        self.records.sending(key, "count", value)
        try:
            sent = self.records.call("shared-if", lambda: client.upsert([record], collection=COLLECTION))
            if sent is not None:
                self.records.acknowledged(key, "count", value, by)
        except VersionConflict:
            self.records.refused(by)


class Setter(SharedWriter):
    """Sets an attribute of its own to ascending numbers, until each is acknowledged."""

    def write(self, coordinator: str, client: Client) -> None:
        key = self.rng.choice(_KEYS)
        self.sent += 1
        value = self.sent
        self.records.sending(key, self.name, value)
        sent = self.records.call(
            "shared-set",
            lambda: client.set_attributes({self.name: value}, collection=COLLECTION, keys=[key]),
        )
        if sent is not None:
            self.records.acknowledged(key, self.name, value)
