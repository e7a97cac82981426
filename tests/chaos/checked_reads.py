"""Owns checked reads: every answer goes to the checker as soon as it arrives."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from lookalike import Client
from lookalike.model.errors import LookalikeError
from lookalike.model.records import StoredRecord
from lookalike.model.results import Hit, SearchResult
from tests.chaos.call_stats import CallStats
from tests.chaos.checker import Finding, Search, SeenHit, SeenRecord, Span, check_get, check_scores, check_search
from tests.chaos.content import Content, Source, code_number, cosine, features_of
from tests.chaos.history import Attributes, History
from tests.chaos.settings import Settings
from tests.chaos.verdict import Tally

# Get returns no staleness bound. If a write is acknowledged before all replicas have it, a read of one may miss
# it.
_GET_STALE_SECONDS = 60.0

Answer = TypeVar("Answer")
ResultFilter = Callable[[SearchResult], SearchResult]


class CheckedReads:
    """Reads one collection and checks the answers."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        history: History,
        tally: Tally,
        stats: CallStats,
        answer: ResultFilter,
    ) -> None:
        """Creates the reader. `answer` maps a search result to what the checker sees of it."""
        self.source = source
        self.history = history
        self._settings = settings
        self._tally = tally
        self._stats = stats
        self._answer = answer

    def checked(
        self,
        operation: str,
        how: str,
        call: Callable[[], Answer],
        check: Callable[[Answer, Span], list[Finding]],
        stale_seconds: Callable[[Answer], float],
    ) -> bool:
        """Issues a call and checks its answer; returns whether it answered.

        Args:
            operation: Its name in the statistics.
            how: Describes it.
            call: The call.
            check: Returns what is wrong with the answer.
            stale_seconds: Returns the staleness that the answer may have.
        """
        phase, began = self._stats.phase, time.monotonic()
        try:
            answer = call()
        except LookalikeError as error:
            self._stats.failed(operation, phase, error)
            return False
        ended = time.monotonic()
        self._stats.succeeded(operation, phase, ended - began)
        span = Span(began, ended, stale_seconds(answer))
        self._tally.add(check(answer, span), span, how)
        return True

    def get(self, name: str, client: Client, keys: Sequence[str], consistency: str) -> bool:
        """Reads keys through the coordinator `name`; returns whether it answered."""
        return self.checked(
            "get",
            f"get at {consistency} through {name}",
            lambda: client.get(
                keys, collection=self.source.collection, consistency=consistency, include_thumbnails=True
            ),
            lambda found, span: check_get(
                self.history, keys, [seen_record(record, True) for record in found], span
            ),
            lambda _: self.get_stale_seconds(consistency),
        )

    def search(
        self, name: str, client: Client, content: Content, search: Search, consistency: str, allow_partial: bool
    ) -> SearchResult | None:
        """Searches through the coordinator `name`; returns the result, or None on an error."""
        phase, began = self._stats.phase, time.monotonic()
        try:
            result = client.search(
                collection=self.source.collection, k=search.k, max_distance=search.max_distance,
                filter={"writer": search.prefix.removesuffix("-")} if search.prefix else None,
                allow_partial=allow_partial, consistency=consistency, **content.query(self.source.fingerprint),
            )  # fmt: skip
        except LookalikeError as error:
            self._stats.failed("search", phase, error)
            return None
        ended = time.monotonic()
        self._stats.succeeded("search", phase, ended - began)
        result = self._answer(result)
        span = Span(began, ended, self._search_stale_seconds(result, consistency))
        claims_complete = result.coverage.complete or result.exact
        hits = [_seen_hit(hit) for hit in result.hits]
        findings = check_search(self.history, search, hits, claims_complete, span)
        partial = "partial allowed, " if allow_partial else ""
        self._tally.add(
            findings, span,
            f"search at {consistency} through {name} ({partial}query {search.query:#x}, k {search.k},"
            f" max_distance {search.max_distance}, prefix {search.prefix!r}, {len(hits)} hits,"
            f" complete {result.coverage.complete}, exact {result.exact})",
        )  # fmt: skip
        return result

    def rerank(self, name: str, client: Client, content: Content, prefix: str, consistency: str) -> bool:
        """Ranks the records of a writer by features; returns whether there was an answer."""
        return self.checked(
            "rerank",
            f"rerank at {consistency} through {name}, prefix {prefix}",
            lambda: client.search(
                collection=self.source.collection, k=50, rerank="features", include_attributes=True,
                filter={"writer": prefix.removesuffix("-")}, consistency=consistency,
                features=features_of(content.code), **content.query(self.source.fingerprint),
            ),
            lambda found, span: check_scores(
                self.history,
                [(hit.key, sequence_of(hit), hit.score) for hit in found.hits],
                lambda code: cosine(code, content.code),
                span,
            ),
            lambda found: self._search_stale_seconds(found, consistency),
        )  # fmt: skip

    def get_stale_seconds(self, consistency: str) -> float:
        settings = self._settings
        is_fresh = settings.acknowledged_by_all or (consistency == "quorum" and settings.quorum_is_fresh)
        return 0.0 if is_fresh else _GET_STALE_SECONDS

    def _search_stale_seconds(self, result: SearchResult, consistency: str) -> float:
        """Returns the bound that the answer states; a quorum read has none."""
        if consistency == "quorum" and self._settings.quorum_is_fresh:
            return 0.0
        return float(getattr(result.coverage, "stale_ms", 0)) / 1000


class RandomReads:
    """Issues random reads."""

    def __init__(self, reads: CheckedReads, rng: random.Random) -> None:
        self._reads = reads
        self._rng = rng
        self._keys = reads.history.keys

    def read(self, name: str, client: Client) -> None:
        """Issues one random read."""
        rng = self._rng
        consistency = rng.choice(("one", "quorum"))
        if rng.random() < 0.4:
            self._reads.get(name, client, rng.sample(self._keys, rng.choice((1, 5, 40))), consistency)
            return
        if self._reads.source.has_features and rng.random() < 0.2:
            content, search = self._filtered()
            self._reads.rerank(name, client, content, search.prefix, consistency)
            return
        content, search = rng.choice((self._exact, self._nearest, self._filtered))()
        self._reads.search(name, client, content, search, consistency, rng.random() < 0.5)

    def _exact(self) -> tuple[Content, Search]:
        """Searches for the exact code that a key may have now."""
        code = self._reads.history.last(self._rng.choice(self._keys)).code
        source = self._reads.source
        content = source.draw(self._rng) if code is None else source.of(code)
        return content, Search(content.code, 10, max_distance=0)

    def _nearest(self) -> tuple[Content, Search]:
        content = self._reads.source.draw(self._rng)
        return content, Search(content.code, self._rng.choice((1, 10, 100)))

    def _filtered(self) -> tuple[Content, Search]:
        content = self._reads.source.draw(self._rng)
        writer = self._rng.choice(self._keys).partition("-")[0]
        return content, Search(content.code, 20, prefix=f"{writer}-")


def seen_record(record: StoredRecord, is_whole: bool) -> SeenRecord:
    """Returns a record as the checker sees it. is_whole: Whether its code and thumbnail were requested."""
    found = record.attributes
    attributes = None
    if isinstance(found.get("born"), int) and isinstance(found.get("group"), int):
        attributes = Attributes(found["born"], found["group"], found.get("note"))
    code, thumbnail = (code_number(record.code), record.thumbnail) if is_whole else (None, None)
    return SeenRecord(record.key, sequence_of(record), code, attributes, thumbnail)


def _seen_hit(hit: Hit) -> SeenHit:
    return SeenHit(hit.key, sequence_of(hit), hit.distance)


def sequence_of(record: StoredRecord | Hit) -> int:
    """Returns the sequence number of the write that a record shows; -1 if it names another key or none."""
    if record.attributes.get("key") != record.key:
        return -1
    return int(record.attributes.get("sequence", -1))
