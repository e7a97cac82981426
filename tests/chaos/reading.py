"""Owns reading with judgement: every answer is handed to the checker as soon as it is there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from lookalike import Client
from lookalike.model.errors import LookalikeError
from lookalike.model.records import Hit, SearchResult, StoredRecord
from tests.chaos.checker import Search, SeenHit, SeenRecord, Span, judge_get, judge_search
from tests.chaos.content import Content, Source, code_number
from tests.chaos.history import History
from tests.chaos.meter import Meter
from tests.chaos.settings import Settings
from tests.chaos.verdict import Tally

# Get tells no bound. Where a write is acknowledged before all replicas have it, a read of one may miss it.
_GET_STALE_SECONDS = 60.0

Answerer = Callable[[SearchResult], SearchResult]


class Reading:
    """Reads one collection and judges what comes."""

    def __init__(
        self, settings: Settings, source: Source, history: History, tally: Tally, meter: Meter, answer: Answerer
    ) -> None:
        """answer: what the checker is shown of a search's result."""
        self.source = source
        self.history = history
        self._settings = settings
        self._tally = tally
        self._meter = meter
        self._answer = answer

    def get(self, name: str, client: Client, keys: Sequence[str], consistency: str) -> bool:
        """Read keys through the coordinator of that name; returns whether an answer came."""
        phase, began = self._meter.phase, time.monotonic()
        try:
            records = client.get(keys, collection=self.source.collection, consistency=consistency)
        except LookalikeError as error:
            self._meter.failed("get", phase, error)
            return False
        ended = time.monotonic()
        self._meter.succeeded("get", phase, ended - began)
        span = Span(began, ended, self._get_stale_seconds(consistency))
        findings = judge_get(self.history, keys, [_seen_record(record) for record in records], span)
        self._tally.add(findings, span, f"get at {consistency} through {name}")
        return True

    def search(
        self, name: str, client: Client, content: Content, search: Search, consistency: str, allow_partial: bool
    ) -> SearchResult | None:
        """Search through the coordinator of that name; returns what came, if it did."""
        phase, began = self._meter.phase, time.monotonic()
        try:
            result = client.search(
                collection=self.source.collection, k=search.k, max_distance=search.max_distance,
                filter={"writer": search.prefix.removesuffix("-")} if search.prefix else None,
                allow_partial=allow_partial, consistency=consistency, **content.query(self.source.fingerprint),
            )  # fmt: skip
        except LookalikeError as error:
            self._meter.failed("search", phase, error)
            return None
        ended = time.monotonic()
        self._meter.succeeded("search", phase, ended - began)
        result = self._answer(result)
        span = Span(began, ended, self._search_stale_seconds(result, consistency))
        claims_complete = result.coverage.complete or result.exact
        hits = [_seen_hit(hit) for hit in result.hits]
        findings = judge_search(self.history, search, hits, claims_complete, span)
        partial = "partial allowed, " if allow_partial else ""
        self._tally.add(
            findings, span,
            f"search at {consistency} through {name} ({partial}query {search.query:#x}, k {search.k},"
            f" max_distance {search.max_distance}, prefix {search.prefix!r}, {len(hits)} hits,"
            f" complete {result.coverage.complete}, exact {result.exact})",
        )  # fmt: skip
        return result

    def _get_stale_seconds(self, consistency: str) -> float:
        given = self._settings
        is_fresh = given.acknowledged_by_all or (consistency == "quorum" and given.quorum_is_fresh)
        return 0.0 if is_fresh else _GET_STALE_SECONDS

    def _search_stale_seconds(self, result: SearchResult, consistency: str) -> float:
        """What the answer itself says; a quorum may not fall back on that."""
        if consistency == "quorum" and self._settings.quorum_is_fresh:
            return 0.0
        return float(getattr(result.coverage, "stale_ms", 0)) / 1000


class Reader:
    """Makes up reads."""

    def __init__(self, reading: Reading, rng: random.Random) -> None:
        self._reading = reading
        self._rng = rng
        self._keys = reading.history.keys

    def read(self, name: str, client: Client) -> None:
        """One read of some kind."""
        rng = self._rng
        consistency = rng.choice(("one", "quorum"))
        if rng.random() < 0.4:
            self._reading.get(name, client, rng.sample(self._keys, rng.choice((1, 5, 40))), consistency)
            return
        content, search = rng.choice((self._exact, self._nearest, self._filtered))()
        self._reading.search(name, client, content, search, consistency, rng.random() < 0.5)

    def _exact(self) -> tuple[Content, Search]:
        """For the very code that a key may have now."""
        code = self._reading.history.last(self._rng.choice(self._keys)).code
        source = self._reading.source
        content = source.draw(self._rng) if code is None else source.of(code)
        return content, Search(content.code, 10, max_distance=0)

    def _nearest(self) -> tuple[Content, Search]:
        content = self._reading.source.draw(self._rng)
        return content, Search(content.code, self._rng.choice((1, 10, 100)))

    def _filtered(self) -> tuple[Content, Search]:
        content = self._reading.source.draw(self._rng)
        writer = self._rng.choice(self._keys).partition("-")[0]
        return content, Search(content.code, 20, prefix=f"{writer}-")


def _seen_record(record: StoredRecord) -> SeenRecord:
    return SeenRecord(record.key, _sequence(record), code_number(record.code))


def _seen_hit(hit: Hit) -> SeenHit:
    return SeenHit(hit.key, _sequence(hit), hit.distance)


def _sequence(record: StoredRecord | Hit) -> int:
    """Which write of its key a record says that it is of; -1 where it says another key's name, or nothing."""
    if record.attributes.get("key") != record.key:
        return -1
    return int(record.attributes.get("sequence", -1))
