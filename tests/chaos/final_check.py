"""Owns the final check after recovery: reads every key at `one` and at `quorum` through each coordinator, and
searches for every record. A read without an answer is retried for a while, then counts as unread."""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator

from lookalike import Client
from tests.chaos.checked_reads import CheckedReads
from tests.chaos.checked_selects import CheckedSelects
from tests.chaos.checker import Search
from tests.chaos.content import owner_of
from tests.chaos.select_checker import Selection
from tests.chaos.shared import SharedRecords
from tests.chaos.verdict import Tally
from tests.chaos.workload import Coordinators

_ROUNDS = 2
_KEYS_AT_ONCE = 200
_K = 10_000
_PAGE = 50
_PATIENCE_SECONDS = 60.0


def check_every_key(reads: CheckedReads, coordinators: Coordinators, tally: Tally) -> None:
    """Checks every key."""
    _until_answered(_reads(reads, coordinators), tally)


def check_shared(shared: SharedRecords, coordinators: Coordinators, tally: Tally) -> None:
    """Checks the records that several writers wrote."""
    _until_answered((functools.partial(shared.read, *coordinator) for coordinator in coordinators), tally)


def _until_answered(calls: Iterable[Callable[[], bool]], tally: Tally) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for read in calls:
        while not read():
            if time.monotonic() > deadline:
                tally.unread += 1
                break
            time.sleep(0.5)


def _reads(reads: CheckedReads, coordinators: Coordinators) -> Iterator[Callable[[], bool]]:
    keys = reads.history.keys
    selects = CheckedSelects(reads)
    prefixes = ["", *sorted({f"{owner_of(key)}-" for key in keys})]
    # The answering replica changes from call to call: a single round might miss a faulty one.
    for _ in range(_ROUNDS):
        for (name, client), consistency in itertools.product(coordinators, ("quorum", "one")):
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                part = keys[start : start + _KEYS_AT_ONCE]
                yield functools.partial(reads.get, name, client, part, consistency)
                yield functools.partial(selects.exists, name, client, part, consistency)
            for prefix in prefixes:
                yield functools.partial(_find_all, reads, name, client, prefix, consistency)
                selection = Selection(prefix)
                yield functools.partial(selects.scroll, name, client, selection, _PAGE, consistency)
                yield functools.partial(selects.count, name, client, selection, False, consistency)
                yield functools.partial(selects.facets, name, client, selection, False)


def _find_all(reads: CheckedReads, name: str, client: Client, prefix: str, consistency: str) -> bool:
    """Searches for all records with a key prefix."""
    content = reads.source.draw(random.Random(prefix))
    search = Search(content.code, _K, prefix=prefix)
    result = reads.search(name, client, content, search, consistency, allow_partial=False)
    return result is not None
