"""Owns planted violations, which the checker must find: unrecorded changes of the data, and altered answers. They
show that the checker works, which a run without findings does not."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from lookalike import Client
from lookalike.model.results import SearchResult
from tests.chaos.checked_reads import ResultFilter
from tests.chaos.content import Source
from tests.chaos.history import History, Write

_EVERY = 20


def unchanged(result: SearchResult) -> SearchResult:
    return result


def result_filter(plant: str | None) -> ResultFilter:
    """Returns the function that alters search results before the check."""
    return _duplicating() if plant == "duplicate" else unchanged


def plant_violation(plant: str | None, client: Client, source: Source, history: History) -> None:
    """Changes one key through a client without recording it in the history."""
    if plant == "lose":
        write = _find(history, lambda write: not write.is_delete)
        client.delete([write.key], collection=source.collection)
    elif plant == "resurrect":
        write = _find(history, lambda write: write.is_delete and bool(history.upserts(write.key)))
        _write_again(client, source, history.upserts(write.key)[-1])
    elif plant == "stale":
        write = _find(history, lambda write: not write.is_delete and len(history.upserts(write.key)) > 1)
        _write_again(client, source, history.upserts(write.key)[-2])
    elif plant == "change":
        write = _find(history, lambda write: not write.is_delete)
        client.set_attributes({"note": -1}, keys=[write.key], collection=source.collection)


def _write_again(client: Client, source: Source, write: Write) -> None:
    assert write.code is not None
    record = source.of(write.code).record(write, source.fingerprint)
    client.upsert([record], collection=source.collection)


def _find(history: History, suits: Callable[[Write], bool]) -> Write:
    """Returns the last write of the first suitable key without a pending write."""
    for key in history.keys:
        write = history.last(key)
        if write.sequence and write.acknowledged is not None and suits(write):
            return write
    raise RuntimeError("no key is suitable for the planted violation; run longer")


def _duplicating() -> ResultFilter:
    counter = itertools.count()

    def duplicate(result: SearchResult) -> SearchResult:
        if not result.hits or next(counter) % _EVERY:
            return result
        return dataclasses.replace(result, hits=[result.hits[0], *result.hits])

    return duplicate
