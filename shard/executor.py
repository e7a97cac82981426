"""Owns the threads of a shard, and decides which work runs in which. It does not depend on gRPC or replication,
which call it.

scan    one thread; waiting scans share passes over the codes; short ones run in the event loop's thread
write   one thread; waiting writes share commits, and every other change to the node runs between commits
read    READ_THREADS threads, for reads by key and long reads of a store
select  SELECT_THREADS threads, for questions about the records that match a filter
dump    one thread for each dump in progress, at most DUMPS_AT_ONCE"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lookalike.cluster.scan import ScanResult, WriteResult
from lookalike.model.errors import Overloaded
from lookalike.server.batcher import Batcher
from lookalike.server.observe import metrics
from lookalike.server.observe.later import later
from lookalike.transport import tracing
from shard import work
from shard.engine import Engine
from shard.kernel import CodeMatrix
from shard.node import Node

MAX_SCAN_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
MAX_COMMIT_BYTES = 16 * 1024 * 1024
MAX_WAITING_BYTES = 128 * 1024 * 1024
READ_THREADS = 2
SELECT_THREADS = 2
MAX_WAITING_SELECTS = 1_024
DUMPS_AT_ONCE = 4
_SCAN_NICENESS = 10

Result = TypeVar("Result")


class ShardExecutor:
    """Runs the work on one node, each kind in its own threads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._scan_thread = ThreadPoolExecutor(1, thread_name_prefix="scan", initializer=_lower_priority)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._select_threads = ThreadPoolExecutor(SELECT_THREADS, thread_name_prefix="select")
        self._selects = 0
        self._dump_threads: set[ThreadPoolExecutor] = set()
        self._scans: Batcher[work.Scan, ScanResult] = Batcher(
            self._run_scans,
            max_weight=MAX_SCAN_QUERIES,
            max_waiting=MAX_WAITING_QUERIES,
            weigh=lambda scan: scan.group.weight,
        )
        self._writes: Batcher[work.Write, WriteResult] = Batcher(
            self._run_writes,
            max_weight=MAX_COMMIT_BYTES,
            max_waiting=MAX_WAITING_BYTES,
            weigh=lambda write: write.weight,
        )

    async def load(self) -> None:
        """Reads the node's collections into memory."""
        await _run_in(self._scan_thread, CodeMatrix(64).warm_up)
        await _run_in(self._write_thread, self._node.load)

    async def scan(self, scan: work.Scan) -> ScanResult:
        """Runs a scan, in one pass with other waiting scans. Raises Overloaded when too many wait.

        A short scan that finds nothing to wait for runs at once, in the caller's thread: handing it to another
        thread and back would take longer."""
        if self._scans.is_idle and scan.is_short:
            answer = self._run_short(scan)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return await self._scans.submit(scan)

    async def write(self, write: work.Write) -> WriteResult:
        """Stores records, in one commit with other waiting writes. Raises Overloaded when too many wait."""
        return await self._writes.submit(write)

    async def mutate(self, call: Callable[[], Result]) -> Result:
        """Runs a call that changes the node or a store, between commits."""
        return await _run_in(self._write_thread, call)

    async def read(self, call: Callable[[], Result]) -> Result:
        """Runs a call that reads a store."""
        return await _run_in(self._read_threads, call)

    async def select(self, call: Callable[[Callable[[], bool]], Result]) -> Result:
        """Runs a read that polls whether to stop, which is when the caller is cancelled.

        Raises:
            Overloaded: If MAX_WAITING_SELECTS of them wait or run.
        """
        if self._selects >= MAX_WAITING_SELECTS:
            raise Overloaded(
                f"{MAX_WAITING_SELECTS:,} counts and lists wait here; retry in a moment", retry_after_ms=1_000
            )
        stop = threading.Event()
        self._selects += 1
        try:
            return await _run_in(self._select_threads, lambda: call(stop.is_set))
        finally:
            self._selects -= 1
            stop.set()

    async def quarantine(self, collection: str, engine: Engine, reason: str) -> None:
        """Takes a damaged collection out of service, unless it is already quarantined or was replaced."""

        def quarantine() -> None:
            if self._node.engines().get(collection) is engine:
                self._node.quarantine(collection, reason)

        await self.mutate(quarantine)

    @contextlib.contextmanager
    def dumping(self, parts: Generator[Result, None, None]) -> Iterator[Callable[[], Awaitable[Result | None]]]:
        """Iterates over a dump in its own thread, because the thread's connection to the store stays pinned to one
        state until the dump ends.

        Args:
            parts: The dump; closed when the block ends.

        Yields:
            A call that returns the next part, or None after the last.

        Raises:
            Overloaded: If DUMPS_AT_ONCE dumps are in progress.
        """
        if len(self._dump_threads) >= DUMPS_AT_ONCE:
            raise Overloaded(f"{DUMPS_AT_ONCE} dumps are in progress here; retry later", retry_after_ms=5_000)
        thread = ThreadPoolExecutor(1, thread_name_prefix="dump")
        self._dump_threads.add(thread)
        try:
            yield lambda: _run_in(thread, lambda: next(parts, None))
        finally:
            # Not awaited: if the client disconnected, the handler is being cancelled and cannot await.
            thread.submit(parts.close).add_done_callback(lambda _: self._dump_threads.discard(thread))
            thread.shutdown(wait=False)

    def gauges(self) -> Iterator[metrics.Sample]:
        """Yields the lengths of the queues, as metrics."""
        yield metrics.QUEUE_WAITING, ("scan",), self._scans.waiting
        yield metrics.QUEUE_WAITING, ("commit",), self._writes.waiting
        yield metrics.QUEUE_WAITING, ("select",), self._selects

    async def close(self) -> None:
        await self._scans.close()
        await self._writes.close()
        for thread in list(self._dump_threads):
            await asyncio.to_thread(thread.shutdown)
        for threads in (self._scan_thread, self._write_thread, self._read_threads, self._select_threads):
            threads.shutdown()

    def _run_short(self, scan: work.Scan) -> ScanResult | Exception:
        began = time.perf_counter()
        with tracing.span("scan", queries=len(scan.group.codes)):
            answer = work.scan_alone(self._node, scan, lambda: False)
        later(_count, _compared([answer]), len(scan.group.codes), time.perf_counter() - began)
        return answer

    async def _run_scans(self, scans: Sequence[work.Scan]) -> Sequence[ScanResult | Exception]:
        stop = threading.Event()
        queries = sum(len(scan.group.codes) for scan in scans)
        began = time.perf_counter()
        try:
            with tracing.span("scan", queries=queries):
                answers = await _run_in(
                    self._scan_thread, lambda: work.scan_together(self._node, scans, stop.is_set)
                )
        except asyncio.CancelledError:
            stop.set()
            raise
        later(_count, _compared(answers), queries, time.perf_counter() - began)
        return answers

    async def _run_writes(self, writes: Sequence[work.Write]) -> Sequence[WriteResult | Exception]:
        records = sum(len(write.records) for write in writes)
        began = time.perf_counter()
        with tracing.span("commit", records=records):
            # A commit that has begun is finished even if no caller still waits for it: a transaction is all or
            # nothing.
            results = await asyncio.shield(
                _run_in(self._write_thread, lambda: work.write_together(self._node, writes))
            )
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
        metrics.COMMIT_RECORDS.observe(records)
        return results


def _count(compared: int, queries: int, seconds: float) -> None:
    metrics.SCAN_SECONDS.observe(seconds)
    metrics.SCAN_QUERIES.observe(queries)
    metrics.CODES_COMPARED.inc(compared)


def _compared(answers: Sequence[ScanResult | Exception]) -> int:
    return sum(answer.rows * answer.hits.queries for answer in answers if isinstance(answer, ScanResult))


async def _run_in(threads: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
    # With the caller's context, log lines written in the thread carry the request's id.
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, call)


def _lower_priority() -> None:
    """Gives the event loop priority over scans, so that it collects larger batches. A larger batch takes little
    longer to scan."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # A process that runs at a lower priority already may not raise it.
        niceness = max(os.getpriority(os.PRIO_PROCESS, thread), _SCAN_NICENESS)
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
