"""Property: the checker reports no violation of a correct store, under any interleaving of writes, failed attempts
and reads."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checker import Search, SeenHit, SeenRecord, Span, check_get, check_search, distance, rank
from tests.chaos.history import History

KEYS = tuple(f"{writer}-{number}" for writer in "ab" for number in range(3))
BITS = 6
STEPS = 60


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """A read in flight, and the sequence numbers of the keys that it has read so far."""

    began: float
    query: Search
    seen: dict[str, int]


class _Simulation:
    """Writers, one register per key, and readers that read one key at a time, in random order, at any time between
    the request and the response. Time is counted in steps."""

    def __init__(self, rng: random.Random) -> None:
        self.history = History(KEYS)
        self._rng = rng
        self._now = 0.0
        self._stored = dict.fromkeys(KEYS, 0)
        self._reads: list[_Read] = []

    def run(self) -> None:
        steps = (
            self._begin_write,
            self._apply,
            self._acknowledge,
            self._ask,
            self._look,
            self._look,
            self._answer,
        )
        for _ in range(STEPS):
            self._now += 1
            self._rng.choice(steps)()
        while self._reads:
            self._now += 1
            self._answer()

    def _begin_write(self) -> None:
        key = self._rng.choice(KEYS)
        if self.history.last(key).acknowledged is not None:
            code = None if self._rng.random() < 0.3 else self._rng.getrandbits(BITS)
            self.history.begin(key, code, self._now)

    def _apply(self) -> None:
        """The write attempt of some key takes effect without an acknowledgement."""
        key = self._rng.choice(KEYS)
        self._stored[key] = self.history.last(key).sequence
        self.history.last(key).is_doubtful |= self._rng.random() < 0.5

    def _acknowledge(self) -> None:
        key = self._rng.choice(KEYS)
        write = self.history.last(key)
        if write.acknowledged is None and self._stored[key] == write.sequence:
            write.acknowledged = self._now

    def _ask(self) -> None:
        limit = self._rng.choice((None, 2))
        query = Search(self._rng.getrandbits(BITS), self._rng.randint(1, 6), limit, self._rng.choice(("", "a-")))
        self._reads.append(_Read(self._now, query, {}))

    def _look(self) -> None:
        if self._reads:
            key = self._rng.choice(KEYS)
            self._rng.choice(self._reads).seen.setdefault(key, self._stored[key])

    def _answer(self) -> None:
        if not self._reads:
            return
        read = self._reads.pop(self._rng.randrange(len(self._reads)))
        seen = self._stored | read.seen
        span = Span(read.began, self._now)
        records = [SeenRecord(key, seen[key], code) for key in KEYS if (code := self._code(key, seen)) is not None]
        assert check_get(self.history, KEYS, records, span) == []
        assert check_search(self.history, read.query, _hits(read.query, records), True, span) == []

    def _code(self, key: str, seen: dict[str, int]) -> int | None:
        write = self.history.find(key, seen[key])
        assert write is not None
        return write.code


def _hits(search: Search, records: list[SeenRecord]) -> list[SeenHit]:
    """Returns the correct answer for these records."""
    matching = [record for record in records if record.key.startswith(search.prefix)]
    matching.sort(key=lambda record: rank(record.key, record.code, search.query))
    hits = [SeenHit(record.key, record.sequence, distance(record.code, search.query)) for record in matching]
    return [hit for hit in hits if search.max_distance is None or hit.distance <= search.max_distance][: search.k]


@given(st.integers(0, 2**32 - 1))
def test_a_correct_store_has_no_violations(seed: int) -> None:
    _Simulation(random.Random(seed)).run()
