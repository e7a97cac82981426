"""Owns the last look: when all is healed, every key is read, at one and at quorum, through each coordinator, and
every record is searched for. A read that gets no answer is repeated for a while, and then counts as unread."""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator

from lookalike import Client
from tests.chaos.checker import Search
from tests.chaos.content import owner_of
from tests.chaos.reading import Reading
from tests.chaos.verdict import Tally
from tests.chaos.workload import Coordinators

_ROUNDS = 2
_KEYS_AT_ONCE = 200
_K = 10_000
_PATIENCE_SECONDS = 60.0


def read_back(reading: Reading, coordinators: Coordinators, tally: Tally) -> None:
    """Have every key judged."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for read in _reads(reading, coordinators):
        while not read():
            if time.monotonic() > deadline:
                tally.unread += 1
                break
            time.sleep(0.5)


def _reads(reading: Reading, coordinators: Coordinators) -> Iterator[Callable[[], bool]]:
    keys = reading.history.keys
    prefixes = ["", *sorted({f"{owner_of(key)}-" for key in keys})]
    # Which replica answers changes from call to call: one round may miss the one that lies.
    for _ in range(_ROUNDS):
        for (name, client), consistency in itertools.product(coordinators, ("quorum", "one")):
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                part = keys[start : start + _KEYS_AT_ONCE]
                yield functools.partial(reading.get, name, client, part, consistency)
            for prefix in prefixes:
                yield functools.partial(_find_all, reading, name, client, prefix, consistency)


def _find_all(reading: Reading, name: str, client: Client, prefix: str, consistency: str) -> bool:
    """Search for everything that a filter keeps."""
    content = reading.source.draw(random.Random(prefix))
    search = Search(content.code, _K, prefix=prefix)
    result = reading.search(name, client, content, search, consistency, allow_partial=False)
    return result is not None
