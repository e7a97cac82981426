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
from tests.chaos.checked_selects import CheckedSelects, RandomSelects
from tests.chaos.checker import Finding, Kind, Span
from tests.chaos.shared import SharedWriter
from tests.chaos.verdict import Tally
from tests.chaos.writes import Plan, Planner

CALL_SECONDS = 4.0
KEYS_PER_WRITER = 120
_PAUSE_SECONDS = (0.01, 0.05)
_RETRY_SECONDS = (0.1, 0.4)

Coordinators = Sequence[tuple[str, Client]]


def keys_of(writer: str) -> list[str]:
    return [f"{writer}-{number:03d}" for number in range(KEYS_PER_WRITER)]


class Writer:
    """Writes its keys in small batches."""

    def __init__(
        self, planner: Planner, stats: CallStats, coordinators: Coordinators, rng: random.Random, tally: Tally
    ) -> None:
        self._planner = planner
        self._stats = stats
        self._coordinators = coordinators
        self._rng = rng
        self._tally = tally

    def write(self, gave_up: threading.Event) -> None:
        """Writes one batch, retrying until it is acknowledged or `gave_up` is set."""
        began = time.monotonic()
        plan = self._planner.plan(began)
        is_first = True
        while (count := self._attempt(plan)) is None:
            is_first = False
            for write in plan.writes:
                write.is_doubtful = True
            if gave_up.wait(self._rng.uniform(*_RETRY_SECONDS)):
                return
        done = time.monotonic()
        for write in plan.writes:
            write.acknowledged = done
        # A retry, also one of the SDK, finds less to delete.
        if count > plan.count or (is_first and count < plan.count and "delete" not in plan.kind):
            text = f"{plan.kind} says that it wrote {count} records, not {plan.count}"
            self._tally.add([Finding(Kind.CORRUPTED, "", text)], Span(began, done), plan.kind)

    def _attempt(self, plan: Plan) -> int | None:
        """Sends the writes once; returns how many records were written, or None without an answer."""
        _, client = self._rng.choice(self._coordinators)
        phase, began = self._stats.phase, time.monotonic()
        operation = "write" if plan.kind in ("upsert", "delete") else plan.kind
        try:
            count = plan.send(client)
        except LookalikeError as error:
            self._stats.failed(operation, phase, error)
            return None
        self._stats.succeeded(operation, phase, time.monotonic() - began)
        return count


class Workload:
    """Threads that write and read until stopped."""

    def __init__(self, coordinators: Coordinators, fail: Callable[[BaseException], None]) -> None:
        """Creates an empty workload. `fail` is called with an error of the harness that ended a thread."""
        self._coordinators = coordinators
        self._fail = fail
        self._stopped = threading.Event()
        self._gave_up = threading.Event()
        self._threads: list[threading.Thread] = []

    def add_writer(
        self, name: str, reads: CheckedReads, stats: CallStats, tally: Tally, is_quorum_fresh: bool, seed: str
    ) -> None:
        rng = random.Random(seed)
        planner = Planner(keys_of(name), reads.source, reads.history, rng, is_quorum_fresh)
        writer = Writer(planner, stats, self._coordinators, rng, tally)
        self._add(lambda: writer.write(self._gave_up), rng)

    def add_reader(self, reads: CheckedReads, seed: str) -> None:
        rng = random.Random(seed)
        reader = RandomReads(reads, rng)
        self._add(lambda: reader.read(*rng.choice(self._coordinators)), rng)

    def add_selector(self, reads: CheckedReads, seed: str) -> None:
        rng = random.Random(seed)
        reader = RandomSelects(CheckedSelects(reads), reads.history.keys, rng)
        self._add(lambda: reader.read(*rng.choice(self._coordinators)), rng)

    def add_shared_writer(self, shared: SharedWriter, rng: random.Random) -> None:
        """Adds a writer of keys that others write too."""
        self._add(lambda: shared.write(*rng.choice(self._coordinators)), rng)

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
