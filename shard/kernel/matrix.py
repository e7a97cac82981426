"""Owns the packed codes of a collection in memory, and the exact top-k over them by (distance, id).

Works on arrays only. A row has a uint64 id, which breaks ties, and a uint32 number, which identifies it to the
caller; numbers increase with every append. A `View` is the matrix as it was after one change: one thread may write
while any number of threads scan, each over a consistent state."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from shard.kernel import mih, weighted
from shard.kernel.chunk import ALL_ROWS, Chunk, Numbers, SelectedRows, Selection, Words, chunk_rows
from shard.kernel.heaps import Distances, Heaps, Ids
from shard.kernel.scan import scan_chunk, tile_blocks
from shard.kernel.simd import LANES, shape_of
from shard.kernel.view import ScanStopped, View, group_by_chunk

Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Matches:
    """The matches of q queries. Row i holds counts[i] matches of query i, ordered by (distance, id); the values
    after them are undefined.

    Attributes:
        counts: int64 (q,).
        distances: uint16 (q, k), in bits.
        ids: uint64 (q, k).
        numbers: uint32 (q, k).
    """

    counts: npt.NDArray[np.int64]
    distances: Distances
    ids: Ids
    numbers: Numbers


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """The parameters of a scan."""

    queries: Words  # (q, words)
    k: int
    limit: int  # bits
    selection: Selection | None
    should_stop: Callable[[], bool]


class CodeMatrix:
    """Packed codes of one width, with ids. One writer, any number of concurrent readers."""

    def __init__(self, bits: int, *, hashed: bool = False) -> None:
        """Creates an empty matrix.

        Args:
            bits: Width of a code: a multiple of 8, 16..8192.
            hashed: Also keep buckets for multi-index hashing, which finds close neighbours without a scan. Needs
                `bits` to be a multiple of 64, 64..512.

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
        self._words = -(-bits // 64)
        self._shape = shape_of(self._words)
        self._tile = tile_blocks(self._words)
        self._view = View((), (), 0, 0, 0)

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
        request = _Request(words, max(1, min(k, view.live)), limit, selection, should_stop)
        hashed = self._hashed_chunks(view, selection)
        heaps = self._scan(view, [p for p in range(len(view.chunks)) if p not in hashed], request, threads)
        if hashed:
            self._look_up(view, hashed, request, threads, heaps)
        heaps.sort()
        return Matches(heaps.counts, heaps.distances, heaps.ids, self._numbers(view, heaps))

    def warm_up(self) -> None:
        """Compiles, or loads from the cache, everything that searches of this width need."""
        matrix = CodeMatrix(self.bits, hashed=self._hashed)
        matrix.append(np.zeros((LANES, self.bits // 8), np.uint8), np.arange(LANES, dtype=np.uint64))
        if self._hashed:
            matrix.view().chunks[0].hash_rows()
        one_row = Selection(np.arange(LANES) == 1)
        for selection in (None, one_row):
            matrix.scan(np.zeros((1, self.bits // 8), np.uint8), 1, selection=selection)
        weighted.warm_up(matrix.view(), self.bits)
        heaps = Heaps.empty(1, 1)
        heaps.absorb(heaps)

    def _scan(self, view: View, positions: Sequence[int], request: _Request, threads: int) -> Heaps:
        """Returns the best rows of these chunks."""

        def scan_span(span: Sequence[tuple[int, int, int]]) -> Heaps:
            heaps = Heaps.empty(len(request.queries), request.k)
            for position, first, last in span:
                if request.should_stop():
                    raise ScanStopped
                self._scan_part(view, position, first, last, request, heaps)
            return heaps

        spans = self._split(view, positions, threads)
        if len(spans) == 1:
            return scan_span(spans[0])
        heaps, *others = _pool(threads).map(scan_span, spans)
        for other in others:
            heaps.absorb(other)
        return heaps

    def _hashed_chunks(self, view: View, selection: Selection | None) -> list[int]:
        """Returns the positions of the chunks to search through their buckets. If a filter selects few rows of a
        chunk, gathering those rows is faster."""
        return [
            position
            for position, (chunk, rows) in enumerate(zip(view.chunks, view.rows, strict=True))
            if chunk.buckets
            and rows == chunk.rows
            and (selection is None or not selection.rows(chunk, rows).picked.size)
        ]

    def _look_up(self, view: View, positions: list[int], request: _Request, threads: int, heaps: Heaps) -> None:
        """Searches these chunks through their buckets, or by a scan for queries whose neighbours are far, and
        merges the result into `heaps`."""
        # `_alive` keeps the arrays alive that `tables` points to.
        tables, _alive = self._tables(view, positions, request.selection)
        rows = sum(view.rows[position] for position in positions)
        budget_ns = mih.SHARE * mih.scan_ns(rows, self._words, len(request.queries))
        found = Heaps.empty(len(request.queries), request.k)
        far = []
        for q, query in enumerate(request.queries):
            if request.should_stop():
                raise ScanStopped
            bound = heaps.bound(q, request.limit)
            if not mih.search(
                tables,
                query,
                request.limit,
                bound,
                budget_ns,
                np.uint32(view.epoch),
                *mih.masks(),
                q,
                found.arrays,
            ):
                far.append(q)
        found.counts[far] = 0
        if far:
            scanned = self._scan(
                view, positions, dataclasses.replace(request, queries=request.queries[far]), threads
            )
            found.put(far, scanned)
        heaps.absorb(found)

    def _tables(
        self, view: View, positions: list[int], selection: Selection | None
    ) -> tuple[Words, list[SelectedRows]]:
        """Returns the tables for `mih.search`, and the objects that must outlive their use."""
        chunks = [view.chunks[position] for position in positions]
        tables = np.stack([chunk.buckets.table for chunk in chunks if chunk.buckets])
        tables[:, mih.PLACE] = np.array(positions) * chunk_rows(self._words)
        tables[[not chunk.dead for chunk in chunks], mih.DIED] = 0
        selected = [] if selection is None else [selection.rows(chunk, chunk.rows) for chunk in chunks]
        for table, rows in zip(tables, selected, strict=False):
            table[mih.SELECTED] = rows.bits.ctypes.data if rows.bits.size else 0
        return tables, selected

    def _scan_part(
        self, view: View, position: int, first: int, last: int, request: _Request, heaps: Heaps
    ) -> None:
        """Scans blocks first..last of one chunk."""
        chunk, rows = view.chunks[position], view.rows[position]
        selected = ALL_ROWS if request.selection is None else request.selection.rows(chunk, rows)
        limit, epoch = np.uint64(request.limit), np.uint32(view.epoch)
        rows = min(rows, last * LANES)
        if selected.picked.size:
            start, rows = (int(at) for at in np.searchsorted(selected.picked, (first * LANES, rows)))
            if start == rows:
                return
            selected = dataclasses.replace(selected, picked=selected.picked[start:rows])
            first, rows = 0, rows - start
            last = -(-rows // LANES)
        scan_chunk(
            chunk.arrays, np.uint32(position * len(chunk.ids)), first, last, self._tile, rows, epoch,
            selected.bits, selected.picked, request.queries, limit, heaps.arrays, self._shape,
        )  # fmt: skip

    def _numbers(self, view: View, heaps: Heaps) -> Numbers:
        """Returns the numbers of the rows in the heaps. The scan does not look them up, since each would be a
        cache miss."""
        places = heaps.places
        taken = np.arange(places.shape[1]) < heaps.counts[:, None]
        positions, rows = np.divmod(places[taken], np.uint32(chunk_rows(self._words)))
        found = np.zeros(len(rows), np.uint32)
        for position in np.unique(positions):
            here = positions == position
            found[here] = view.chunks[position].numbers[rows[here]]
        numbers = np.zeros_like(places)
        numbers[taken] = found
        return numbers

    def _split(self, view: View, positions: Sequence[int], threads: int) -> list[list[tuple[int, int, int]]]:
        """Cuts the tiles of a view's chunks into at most `threads` even spans, each a list of (chunk, first block,
        last block)."""
        tile_rows = self._tile * LANES
        counts = [-(-view.rows[position] // tile_rows) for position in positions]
        parts = min(threads, sum(counts)) or 1
        spans = []
        for part in range(parts):
            start, end = (edge * sum(counts) // parts for edge in (part, part + 1))
            span = []
            offset = 0
            for position, count in zip(positions, counts, strict=True):
                first, last = max(start - offset, 0), min(end - offset, count)
                if first < last:
                    blocks = -(-view.rows[position] // LANES)
                    span.append((position, first * self._tile, min(last * self._tile, blocks)))
                offset += count
            spans.append(span)
        return spans

    def _to_words(self, codes: Bytes) -> Words:
        codes = np.asarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.bits // 8:
            raise ValueError(
                f"codes: need uint8 of shape (n, {self.bits // 8}), got {codes.dtype} of {codes.shape}"
            )
        padded = np.zeros((len(codes), self._words * 8), np.uint8)
        padded[:, : codes.shape[1]] = codes
        return padded.view(np.uint64)

    def _append_rows(self, chunks: list[Chunk], words: Words, ids: Ids, numbers: Numbers) -> None:
        start = 0
        while start < len(words):
            if not chunks or chunks[-1].is_full:
                chunks.append(Chunk.empty(self._words))
            start += chunks[-1].append(words[start:], ids[start:], numbers[start:])
            if self._hashed and chunks[-1].is_full:
                chunks[-1].hash_rows()

    def _publish(self, chunks: list[Chunk], epoch: int, live: int, end: int) -> None:
        self._view = View(tuple(chunks), tuple(chunk.rows for chunk in chunks), epoch, live, end)

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
                chunks.append(Chunk.empty(self._words))
            self._append_rows(chunks, *chunk.alive())
        self._publish([chunk for chunk in chunks if chunk.rows], before.epoch, before.live, before.end)


@functools.lru_cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="scan")


def _check_rows(rows: int, ids: Ids, numbers: Numbers, end: int) -> None:
    if ids.shape != (rows,) or numbers.shape != (rows,):
        raise ValueError(f"ids and numbers: need shape ({rows},), got {ids.shape} and {numbers.shape}")
    increasing = bool(np.all(numbers[1:] > numbers[:-1]))
    if rows and not (increasing and end <= int(numbers[0])):
        raise ValueError(f"numbers: must increase strictly, from {end} or above")
