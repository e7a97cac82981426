"""Owns lies that the checker must find: changes of the data behind the harness's back, and answers altered on
their way. A checker that finds nothing in a good cluster has shown nothing; one that finds these has."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from lookalike import Client
from lookalike.model.records import SearchResult
from tests.chaos.content import Source
from tests.chaos.history import History, Write
from tests.chaos.reading import Answerer

_EVERY = 20


def truthful(result: SearchResult) -> SearchResult:
    return result


def answerer(plant: str | None) -> Answerer:
    """What becomes of search results before they are judged."""
    return _duplicating() if plant == "duplicate" else truthful


def tell_lie(plant: str | None, client: Client, source: Source, history: History) -> None:
    """Change one key through a client, unrecorded."""
    if plant == "lose":
        write = _find(history, lambda write: not write.is_delete)
        client.delete([write.key], collection=source.collection)
    elif plant == "resurrect":
        write = _find(history, lambda write: write.is_delete and bool(history.upserts(write.key)))
        _write_again(client, source, history.upserts(write.key)[-1])
    elif plant == "stale":
        write = _find(history, lambda write: not write.is_delete and len(history.upserts(write.key)) > 1)
        _write_again(client, source, history.upserts(write.key)[-2])


def _write_again(client: Client, source: Source, write: Write) -> None:
    assert write.code is not None
    record = source.of(write.code).record(write.key, write.sequence, source.fingerprint)
    client.upsert([record], collection=source.collection)


def _find(history: History, suits: Callable[[Write], bool]) -> Write:
    """The last write of the first key where that suits and all is known to be done."""
    for key in history.keys:
        write = history.last(key)
        if write.sequence and write.acknowledged is not None and suits(write):
            return write
    raise RuntimeError("no key suits the lie; run longer")


def _duplicating() -> Answerer:
    counter = itertools.count()

    def duplicate(result: SearchResult) -> SearchResult:
        if not result.hits or next(counter) % _EVERY:
            return result
        return dataclasses.replace(result, hits=[result.hits[0], *result.hits])

    return duplicate
