"""Owns the load: writers with disjoint keys, and readers, each in its own thread.

A write with an unknown outcome is retried, through any coordinator, until it is acknowledged. So when the load has
stopped, every key's last write is acknowledged, except those that `stop` gave up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from lookalike import Client
from lookalike.model.errors import LookalikeError
from tests.chaos.call_stats import CallStats
from tests.chaos.checked_reads import CheckedReads, RandomReads
from tests.chaos.content import Content, Source
from tests.chaos.history import History, Write

CALL_SECONDS = 4.0
KEYS_PER_WRITER = 120
_DELETE_SHARE = 0.25
_PAUSE_SECONDS = (0.01, 0.05)
_RETRY_SECONDS = (0.1, 0.4)

Coordinators = Sequence[tuple[str, Client]]


def keys_of(writer: str) -> list[str]:
    return [f"{writer}-{number:03d}" for number in range(KEYS_PER_WRITER)]


class Writer:
    """Writes its keys in small batches."""

    def __init__(
        self, name: str, source: Source, history: History, stats: CallStats, coordinators: Coordinators,
        rng: random.Random,
    ) -> None:  # fmt: skip
        self._keys = keys_of(name)
        self._source = source
        self._history = history
        self._stats = stats
        self._coordinators = coordinators
        self._rng = rng

    def write(self, gave_up: threading.Event) -> None:
        """Writes one batch, retrying until it is acknowledged or `gave_up` is set."""
        rng = self._rng
        keys = rng.sample(self._keys, rng.randint(1, 8))
        contents: list[Content | None]
        contents = [None] * len(keys) if rng.random() < _DELETE_SHARE else [self._source.draw(rng) for _ in keys]
        now = time.monotonic()
        writes = [
            self._history.begin(key, None if content is None else content.code, now)
            for key, content in zip(keys, contents, strict=True)
        ]
        while not self._attempt(writes, contents):
            for write in writes:
                write.is_doubtful = True
            if gave_up.wait(rng.uniform(*_RETRY_SECONDS)):
                return
        done = time.monotonic()
        for write in writes:
            write.acknowledged = done

    def _attempt(self, writes: Sequence[Write], contents: Sequence[Content | None]) -> bool:
        """Sends the writes once; returns whether they were acknowledged."""
        _, client = self._rng.choice(self._coordinators)
        source, phase, began = self._source, self._stats.phase, time.monotonic()
        records = [
            content.record(write.key, write.sequence, source.fingerprint)
            for write, content in zip(writes, contents, strict=True)
            if content is not None
        ]
        try:
            if records:
                client.upsert(records, collection=source.collection)
            else:
                client.delete([write.key for write in writes], collection=source.collection)
        except LookalikeError as error:
            self._stats.failed("write", phase, error)
            return False
        self._stats.succeeded("write", phase, time.monotonic() - began)
        return True


class Workload:
    """Threads that write and read until stopped."""

    def __init__(self, coordinators: Coordinators, fail: Callable[[BaseException], None]) -> None:
        """Creates an empty workload. `fail` is called with an error of the harness that ended a thread."""
        self._coordinators = coordinators
        self._fail = fail
        self._stopped = threading.Event()
        self._gave_up = threading.Event()
        self._threads: list[threading.Thread] = []

    def add_writer(self, name: str, source: Source, history: History, stats: CallStats, seed: str) -> None:
        rng = random.Random(seed)
        writer = Writer(name, source, history, stats, self._coordinators, rng)
        self._add(lambda: writer.write(self._gave_up), rng)

    def add_reader(self, reads: CheckedReads, seed: str) -> None:
        rng = random.Random(seed)
        reader = RandomReads(reads, rng)
        self._add(lambda: reader.read(*rng.choice(self._coordinators)), rng)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_seconds: float) -> bool:
        """Starts no new calls and waits for those in flight. After `patience_seconds` it gives up unacknowledged
        writes; returns whether there were none."""
        self._stopped.set()
        deadline = time.monotonic() + patience_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        in_time = not any(thread.is_alive() for thread in self._threads)
        self._gave_up.set()
        for thread in self._threads:
            thread.join()
        return in_time

    def _add(self, step: Callable[[], None], rng: random.Random) -> None:
        def repeat() -> None:
            try:
                while not self._stopped.wait(rng.uniform(*_PAUSE_SECONDS)):
                    step()
            except BaseException as error:
                self._fail(error)

        self._threads.append(threading.Thread(target=repeat, daemon=True))
