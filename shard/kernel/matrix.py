"""Owns the packed codes of a collection in memory: appends, deletions and compaction.

Works on arrays only. A row has a uint64 id, which breaks ties, and a uint32 number, which identifies it to the
caller; numbers increase with every append. A `View` is the matrix as it was after one change: one thread may write
while any number of threads scan, each over a consistent state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shard.kernel import grouped, mih, weighted
from shard.kernel.chunk import Chunk, Numbers, Selection, Words
from shard.kernel.heaps import Distances, Heaps, Ids
from shard.kernel.search import Matches, Request, Search, search
from shard.kernel.simd import LANES
from shard.kernel.view import View, group_by_chunk

Bytes = npt.NDArray[np.uint8]


class CodeMatrix:
    """Packed codes of one width, with ids. One writer, any number of concurrent readers."""

    def __init__(self, bits: int, *, hashed: bool = False, searcher: Search | None = None) -> None:
        """Creates an empty matrix.

        Args:
            bits: Width of a code: a multiple of 8, 16..8192.
            hashed: Also keep buckets for multi-index hashing, which finds close neighbours without a scan. Needs
                `bits` to be a multiple of 64, 64..512.
            searcher: The search to use, such as `shard.kernel.cuda.CudaSearch.search`; None for the CPU's.

        Raises:
            ValueError: If `bits` is not such a width.
        """
        if not 16 <= bits <= 8192 or bits % 8:
            raise ValueError(f"bits: {bits} is not a multiple of 8 from 16 to 8192")
        if hashed and not mih.supports(bits):
            raise ValueError(
                f"bits: {bits} is not a multiple of 64 from 64 to 512, as multi-index hashing requires"
            )
        self.bits = bits
        self._hashed = hashed
        self._search = searcher or search
        self._words = -(-bits // 64)
        self._view = View.of((), 0, 0, 0)

    def __len__(self) -> int:
        """Returns the number of live rows."""
        return self._view.live

    @property
    def memory_bytes(self) -> int:
        """Bytes of the blocks in use: codes, ids, numbers and deletion stamps."""
        return sum(chunk.memory_bytes for chunk in self._view.chunks)

    def view(self) -> View:
        """Returns the current state, which can be scanned later or several times."""
        return self._view

    def append(self, codes: Bytes, ids: Ids, numbers: Numbers | None = None) -> None:
        """Appends rows.

        Args:
            codes: uint8 (n, bits/8), most significant bit first (numpy.packbits order).
            ids: uint64 (n,).
            numbers: uint32 (n,), strictly increasing and above all earlier numbers; consecutive by default.

        Raises:
            ValueError: If a shape, a dtype or the order of the numbers is wrong.
        """
        self.replace(np.zeros(0, np.uint32), codes, ids, numbers)

    def delete(self, numbers: Numbers) -> int:
        """Deletes the rows with these numbers, uint32 (n,), and ignores unknown ones; returns how many were
        live."""
        return self.replace(numbers, np.zeros((0, self.bits // 8), np.uint8), np.zeros(0, np.uint64))

    def replace(self, deleted: Numbers, codes: Bytes, ids: Ids, numbers: Numbers | None = None) -> int:
        """Deletes rows and appends others atomically: a scan sees both changes or neither.

        Args:
            deleted: As in `delete`.
            codes: As in `append`.
            ids: As in `append`.
            numbers: As in `append`.

        Returns:
            How many of the deleted rows were live.

        Raises:
            ValueError: As in `append`.
        """
        words = self._to_words(codes)
        ids = np.asarray(ids, np.uint64)
        before = self._view
        if numbers is None:
            numbers = np.arange(before.end, before.end + len(words), dtype=np.uint32)
        _check_rows(len(words), ids, numbers, before.end)
        epoch = before.epoch + 1
        killed = 0
        for position, group in group_by_chunk(before.chunks, np.sort(np.asarray(deleted, np.uint32))):
            killed += before.chunks[position].kill(group, epoch)
        chunks = list(before.chunks)
        end = before.end
        if len(words):
            self._append_rows(chunks, words, ids, numbers)
            end = int(numbers[-1]) + 1
        self._publish(chunks, epoch, before.live - killed + len(words), end)
        if killed:
            self._compact()
        return killed

    def search(self, queries: Bytes, k: int, threads: int = 1) -> tuple[Distances, Ids]:
        """Finds the k nearest rows to each query in the current state.

        Args:
            queries: uint8 (q, bits/8).
            k: Rows per query, at least 1.
            threads: Threads that share the scan.

        Returns:
            Distances, uint16 (q, k'), and ids, uint64 (q, k'), ordered by (distance, id); k' = min(k, live rows).
        """
        view = self._view
        matches = self.scan(queries, k, view=view, threads=threads)
        width = min(k, view.live)
        return matches.distances[:, :width], matches.ids[:, :width]

    def scan(
        self,
        queries: Bytes,
        k: int,
        *,
        view: View | None = None,
        max_distance: int | None = None,
        floor: tuple[int, int] = (0, 0),
        selection: Selection | None = None,
        threads: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Matches:
        """Finds the k nearest rows to each query.

        Args:
            queries: uint8 (q, bits/8).
            k: Rows per query, at least 1.
            view: The state to scan; the current one by default.
            max_distance: The largest distance of a match, in bits.
            floor: A distance and an id: rows before it in the order of (distance, id) are left out.
            selection: The rows to consider; all by default.
            threads: Threads that share the scan.
            should_stop: Polled during the scan.

        Returns:
            Up to min(k, live rows) matches per query, ordered by (distance, id).

        Raises:
            ScanStopped: If `should_stop` returned True.
            ValueError: If `k`, `threads` or the shape of `queries` is invalid.
        """
        if k < 1 or threads < 1:
            raise ValueError(f"k and threads: must be at least 1, got {k} and {threads}")
        words = self._to_words(queries)
        view = view or self._view
        limit = self.bits if max_distance is None else max(0, min(max_distance, self.bits))
        least = np.uint64(floor[0]), np.uint64(floor[1])
        request = Request(words, self._words, max(1, min(k, view.live)), limit, least, selection, should_stop)
        return self._search(view, request, threads)

    def warm_up(self) -> None:
        """Compiles, or loads from the cache, everything that searches of this width need."""
        matrix = CodeMatrix(self.bits, hashed=self._hashed, searcher=self._search)
        matrix.append(np.zeros((LANES, self.bits // 8), np.uint8), np.arange(LANES, dtype=np.uint64))
        query = np.zeros((1, self.bits // 8), np.uint8)
        # With two threads, rows are scanned and read out in separate calls.
        for selection, threads in ((None, 1), (None, 2), (Selection(np.arange(LANES) == 1), 1)):
            matrix.scan(query, 1, selection=selection, threads=threads)
        if self._hashed:
            matrix.view().chunks[0].hash_rows()
            matrix.scan(query, 1)
        weighted.warm_up(matrix.view(), self.bits)
        grouped.warm_up(matrix.view(), self.bits)
        heaps = Heaps.empty(1, 1)
        heaps.absorb(heaps)

    def _to_words(self, codes: Bytes) -> Words:
        codes = np.asarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.bits // 8:
            raise ValueError(
                f"codes: need uint8 of shape (n, {self.bits // 8}), got {codes.dtype} of {codes.shape}"
            )
        if self.bits % 64 == 0:
            return codes.copy().view(np.uint64)
        padded = np.zeros((len(codes), self._words * 8), np.uint8)
        padded[:, : codes.shape[1]] = codes
        return padded.view(np.uint64)

    def _append_rows(self, chunks: list[Chunk], words: Words, ids: Ids, numbers: Numbers) -> None:
        start = 0
        while start < len(words):
            if not chunks:
                chunks.append(Chunk.empty(self._words, 0))
            elif chunks[-1].is_full:
                chunks.append(Chunk.empty(self._words))
            chunks[-1] = chunks[-1].with_room(len(words) - start)
            start += chunks[-1].append(words[start:], ids[start:], numbers[start:])
            if self._hashed and chunks[-1].is_full:
                chunks[-1].hash_rows()

    def _publish(self, chunks: list[Chunk], epoch: int, live: int, end: int) -> None:
        self._view = View.of(chunks, epoch, live, end)

    def _compact(self) -> None:
        """Copies the live rows out of chunks with many dead ones, so that memory follows the number of live rows.
        A row is copied only when a quarter of its chunk has died; old views keep the old chunks."""
        before = self._view
        sparse = [chunk for chunk in before.chunks if chunk.needs_compaction]
        if not sparse:
            return
        chunks: list[Chunk] = []
        for chunk in before.chunks:
            if chunk not in sparse:
                chunks.append(chunk)
                continue
            if chunks and chunks[-1] in before.chunks:
                # Never append to a chunk that stays: old views read it, and numbers must increase.
                chunks.append(Chunk.empty(self._words, 0))
            self._append_rows(chunks, *chunk.alive())
        self._publish([chunk for chunk in chunks if chunk.rows], before.epoch, before.live, before.end)


def _check_rows(rows: int, ids: Ids, numbers: Numbers, end: int) -> None:
    if ids.shape != (rows,) or numbers.shape != (rows,):
        raise ValueError(f"ids and numbers: need shape ({rows},), got {ids.shape} and {numbers.shape}")
    increasing = bool(np.all(numbers[1:] > numbers[:-1]))
    if rows and not (increasing and end <= int(numbers[0])):
        raise ValueError(f"numbers: must increase strictly, from {end} or above")
