"""Owns checked counts, facets, scrolls and questions about existence: every answer goes to the checker as soon as
it arrives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from lookalike import Client
from tests.chaos.checked_reads import CheckedReads, seen_record
from tests.chaos.select_checker import (
    Selection,
    check_count,
    check_exists,
    check_facets,
    check_scroll,
)
from tests.chaos.writes import GROUPS

Answer = TypeVar("Answer")


class CheckedSelects:
    """Selects records of one collection and checks the answers."""

    def __init__(self, reads: CheckedReads) -> None:
        self._reads = reads
        self._collection = reads.source.collection
        self._history = reads.history

    def exists(self, name: str, client: Client, keys: Sequence[str], consistency: str) -> bool:
        """Asks which keys exist, through the coordinator `name`; returns whether it answered."""
        return self._reads.checked(
            "exists",
            f"exists at {consistency} through {name}",
            lambda: client.exists(keys, collection=self._collection, consistency=consistency),
            lambda found, span: check_exists(self._history, keys, found, span),
            lambda _: self._reads.get_stale_seconds(consistency),
        )

    def scroll(
        self, name: str, client: Client, selection: Selection, page_size: int | None, consistency: str
    ) -> bool:
        """Reads all records of a selection; returns whether all pages came."""
        include_codes = bool(page_size)
        return self._reads.checked(
            "scroll",
            f"scroll of {selection} at {consistency} through {name}, page size {page_size}",
            lambda: list(
                client.scroll(
                    collection=self._collection, filter=selection.document(), page_size=page_size,
                    consistency=consistency, include_codes=include_codes, include_thumbnails=include_codes,
                )
            ),
            lambda found, span: check_scroll(
                self._history, selection, [seen_record(record, include_codes) for record in found], span
            ),
            lambda _: self._reads.get_stale_seconds(consistency),
        )  # fmt: skip

    def count(
        self, name: str, client: Client, selection: Selection, allow_partial: bool, consistency: str = "one"
    ) -> bool:
        """Counts a selection; returns whether it was answered."""
        return self._reads.checked(
            "count",
            f"count of {selection} at {consistency} through {name}, partial {allow_partial}",
            lambda: client.count(
                collection=self._collection,
                filter=selection.document(),
                allow_partial=allow_partial,
                consistency=consistency,
            ),
            lambda found, span: check_count(self._history, selection, found.count, found.coverage.complete, span),
            lambda found: found.coverage.stale_ms / 1000,
        )

    def facets(self, name: str, client: Client, selection: Selection, allow_partial: bool) -> bool:
        """Counts the groups of a selection; returns whether it was answered."""
        return self._reads.checked(
            "facets",
            f"facets of {selection} through {name}, partial {allow_partial}",
            lambda: client.facets(
                "group", collection=self._collection, filter=selection.document(), allow_partial=allow_partial
            ),
            lambda found, span: check_facets(
                self._history,
                selection,
                {int(facet.value): facet.count for facet in found.facets},
                range(GROUPS),
                found.coverage.complete,
                span,
            ),
            lambda found: found.coverage.stale_ms / 1000,
        )


class RandomSelects:
    """Issues random questions."""

    def __init__(self, selects: CheckedSelects, keys: Sequence[str], rng: random.Random) -> None:
        self._selects = selects
        self._rng = rng
        self._keys = keys

    def read(self, name: str, client: Client) -> None:
        """Issues one random question."""
        rng, selects = self._rng, self._selects
        consistency = rng.choice(("one", "quorum"))
        kind = rng.choice(("exists", "scroll", "count", "facets"))
        if kind == "exists":
            selects.exists(name, client, rng.sample(self._keys, rng.choice((1, 5, 40))), consistency)
        elif kind == "scroll":
            selects.scroll(name, client, self._selection(), rng.choice((None, 17, 100)), consistency)
        elif kind == "count":
            is_partial = consistency == "one" and rng.random() < 0.5
            selects.count(name, client, self._selection(), is_partial, consistency)
        else:
            selects.facets(name, client, self._selection(may_have_group=False), rng.random() < 0.5)

    def _selection(self, may_have_group: bool = True) -> Selection:
        rng = self._rng
        prefix = f"{rng.choice(self._keys).partition('-')[0]}-" if rng.random() < 0.7 else ""
        group = rng.randrange(GROUPS) if may_have_group and rng.random() < 0.4 else None
        return Selection(prefix, group)
