"""Owns the exact scan on a GPU through CUDA. Codes, ids and deletions are copied to the GPU's memory; each search
copies only what changed since the last one.

A search takes two passes over the rows. The first counts rows by distance, for each query; the counts give the
distance of the k-th nearest row. The second collects the rows up to that distance. The host puts them in the order
of (distance, id), the order of every answer. So the result is that of `shard.kernel.search.search`.

NUMBA_ENABLE_CUDASIM=1 runs the same functions in Numba's simulator, without a GPU and very slowly."""

from __future__ import annotations

import dataclasses
import functools
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import config, cuda

from shard.kernel.chunk import Chunk, Numbers, Words, chunk_rows
from shard.kernel.heaps import Ids
from shard.kernel.search import Matches, Request, has_equal
from shard.kernel.simd import LANES
from shard.kernel.view import ScanStopped, View

# Threads per block, and the most blocks per query. The simulator starts a Python thread for each thread.
_THREADS, _BLOCKS = (2, 2) if config.ENABLE_CUDASIM else (256, 1_024)
# The second pass collects at most about this many rows at a time, 8 bytes each: equal codes can be numerous.
_FOUND_ROWS = 1 << 24
_PLACE_BITS = 32
_Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(slots=True, eq=False)
class _Copy:
    """A chunk's arrays on the GPU, with the same capacity. rows: how many rows were copied. dead: how many of the
    chunk's rows were deleted when `died` was copied."""

    codes: Any
    ids: Any
    died: Any
    rows: int = 0
    dead: int = 0

    @classmethod
    def empty(cls, chunk: Chunk) -> _Copy:
        arrays = (chunk.codes, chunk.ids, chunk.died)
        return cls(*(cuda.device_array(array.shape, array.dtype) for array in arrays))

    def update(self, chunk: Chunk, rows: int) -> None:
        """Copies what changed among the chunk's first `rows` rows."""
        dead = chunk.dead  # Read before `died`: stamps that are written later change it again.
        if self.rows < rows:
            blocks, new = slice(self.rows // LANES, -(-rows // LANES)), slice(self.rows, rows)
            self.codes[blocks].copy_to_device(chunk.codes[blocks])
            self.ids[new].copy_to_device(chunk.ids[new])
            self.died[new].copy_to_device(chunk.died[new])
            self.rows = rows
        if self.dead != dead:
            self.died[: self.rows].copy_to_device(chunk.died[: self.rows])
            self.dead = dead


class CudaSearch:
    """Searches on one GPU, CUDA's current device. Any thread may call it; searches run one after the other."""

    def __init__(self) -> None:
        """Raises RuntimeError, with the reason, if no GPU is usable."""
        try:
            cuda.current_context()
        except Exception as error:  # CUDA's driver raises many kinds of errors
            lines = [line.strip() for line in str(error).splitlines() if line.strip(" :")]
            raise RuntimeError(" ".join(lines[:2]) or type(error).__name__) from None
        # Numba warns of small grids, which collections of few rows have.
        warnings.filterwarnings("ignore", message="Grid size .* will likely result in GPU under-utilization")
        self._lock = threading.Lock()
        self._copies: weakref.WeakKeyDictionary[Chunk, _Copy] = weakref.WeakKeyDictionary()

    def search(self, view: View, request: Request, threads: int = 1) -> Matches:
        """Finds the k nearest rows of a view to each query, as `shard.kernel.search.search` does. `threads` is not
        used.

        Raises:
            ScanStopped: If `request.should_stop` returned True.
        """
        queries, k = len(request.queries), request.k
        matches = Matches(
            np.zeros(queries, np.int64),
            np.zeros((queries, k), np.uint16),
            np.zeros((queries, k), np.uint64),
            np.zeros((queries, k), np.uint32),
            has_equal_neighbours=False,
        )
        if not queries:
            return matches
        with self._lock:
            parts = [self._arguments(view, position, request) for position in range(len(view.chunks))]
            cuts, sizes = _cuts(self._count(parts, request), request)
            for group in _groups(sizes):
                found = self._collect(parts, request, group, cuts[group], sizes[group])
                for q, keys in zip(range(*group.indices(queries)), found, strict=True):
                    _fill(matches, q, view, keys, request)
        return matches

    def _arguments(self, view: View, position: int, request: Request) -> tuple[int, int, tuple[Any, ...]]:
        """Returns a chunk's first place (see `heaps`), its rows in the view, and its arguments for both passes."""
        chunk, rows = view.chunks[position], view.rows[position]
        copy = self._copies.get(chunk)
        if copy is None:
            copy = self._copies[chunk] = _Copy.empty(chunk)
        copy.update(chunk, rows)
        selected = _selected_bits(chunk, rows, request)
        bits = cuda.to_device(np.zeros(1, np.uint64) if selected is None else selected)
        arguments = (
            copy.codes, copy.ids, copy.died, np.uint32(view.epoch), bits, selected is not None, rows,
            request.limit, int(request.floor[0]), request.floor[1],
        )  # fmt: skip
        return position * chunk_rows(request.words), rows, arguments

    def _count(self, parts: list[tuple[int, int, tuple[Any, ...]]], request: Request) -> _Counts:
        """Returns how many wanted rows each query has at each distance, int64 (q, bins)."""
        count, _ = _kernels(request.words)
        counts = cuda.to_device(np.zeros((len(request.queries), _bins(request.words)), np.uint32))
        queries = cuda.to_device(request.queries)
        for _, rows, arguments in parts:
            if request.should_stop():
                raise ScanStopped
            count[_grid(rows, len(request.queries)), _THREADS](*arguments, queries, counts)
        result: _Counts = counts.copy_to_host().astype(np.int64)
        return result

    def _collect(
        self,
        parts: list[tuple[int, int, tuple[Any, ...]]],
        request: Request,
        group: slice,
        cuts: _Counts,
        sizes: _Counts,
    ) -> list[_Counts]:
        """Returns, for each query of the group, its rows up to its cut: distance << 32 | place, in any order."""
        _, collect = _kernels(request.words)
        ends = np.cumsum(sizes)
        own = request.queries[group]
        found = cuda.device_array(max(1, int(ends[-1])), np.int64)
        taken = cuda.to_device(np.zeros(len(own), np.uint32))
        results = cuda.to_device(own), cuda.to_device(cuts), cuda.to_device(ends - sizes), taken, found
        for place, rows, arguments in parts:
            if request.should_stop():
                raise ScanStopped
            collect[_grid(rows, len(own)), _THREADS](*arguments, *results, place)
        return np.split(found.copy_to_host()[: ends[-1]], ends[:-1])


@functools.cache
def _kernels(words: int) -> tuple[Any, Any]:
    """Compiles both passes for codes of `words` 64-bit words."""
    bins = _bins(words)

    def wanted_distance(  # type: ignore[no-untyped-def]
        codes, ids, died, epoch, selected, selects, limit, floor_distance, floor_id, queries, q, row
    ):
        """Returns the distance of a row from a query, or -1 if the row cannot be in the answer. The arguments are
        those of `scan.scan_chunk`."""
        block, lane = row // LANES, row % LANES
        if died[row] != 0 and died[row] <= epoch:
            return -1
        if selects and not (selected[block] >> np.uint64(lane)) & np.uint64(1):
            return -1
        distance = np.int64(0)
        for word in range(words):
            # Numba would add int64 and uint64 as float64.
            distance += np.int64(cuda.popc(codes[block, word, lane] ^ queries[q, word]))
        if distance > limit or distance < floor_distance:
            return -1
        if distance == floor_distance and ids[row] < floor_id:
            return -1
        return distance

    wanted = cuda.jit(wanted_distance, device=True)

    def count(  # type: ignore[no-untyped-def]
        codes, ids, died, epoch, selected, selects, rows, limit, floor_distance, floor_id, queries, counts
    ):
        q = cuda.blockIdx.y
        # A block's own counts: most rows of random codes have about the same distance, and blocks would wait.
        own = cuda.shared.array(bins, np.uint32)
        for distance in range(cuda.threadIdx.x, bins, cuda.blockDim.x):
            own[distance] = 0
        cuda.syncthreads()
        for row in range(cuda.grid(1), rows, cuda.gridsize(1)):
            found = wanted(
                codes, ids, died, epoch, selected, selects, limit, floor_distance, floor_id, queries, q, row
            )
            if found >= 0:
                cuda.atomic.add(own, found, np.uint32(1))
        cuda.syncthreads()
        for distance in range(cuda.threadIdx.x, bins, cuda.blockDim.x):
            if own[distance]:
                cuda.atomic.add(counts, (q, distance), own[distance])

    def collect(  # type: ignore[no-untyped-def]
        codes, ids, died, epoch, selected, selects, rows, limit, floor_distance, floor_id,
        queries, cuts, starts, taken, results, place,
    ):  # fmt: skip
        q = cuda.blockIdx.y
        for row in range(cuda.grid(1), rows, cuda.gridsize(1)):
            found = wanted(
                codes, ids, died, epoch, selected, selects, limit, floor_distance, floor_id, queries, q, row
            )
            if 0 <= found <= cuts[q]:
                at = starts[q] + np.int64(cuda.atomic.add(taken, q, np.uint32(1)))
                results[at] = (np.int64(found) << _PLACE_BITS) | (place + row)

    return cuda.jit(count), cuda.jit(collect)


def _bins(words: int) -> int:
    """The number of distances that codes of `words` words can have."""
    return words * 64 + 1


def _grid(rows: int, queries: int) -> tuple[int, int]:
    """Blocks: for a part of the rows, and for each query."""
    return max(1, min(_BLOCKS, -(-rows // _THREADS))), queries


def _selected_bits(chunk: Chunk, rows: int, request: Request) -> Words | None:
    """Returns one bit per row of the chunk, uint64 (blocks,), or None if all rows are selected."""
    if request.selection is None:
        return None
    chosen = request.selection.rows(chunk, rows)
    if not chosen.picked.size:
        return chosen.bits if chosen.bits.size else None
    mask = np.zeros(len(chunk.ids), np.bool_)
    mask[chosen.picked] = True
    return np.packbits(mask, bitorder="little").view(np.uint64)


def _cuts(counts: _Counts, request: Request) -> tuple[_Counts, _Counts]:
    """Returns, for each query, the distance of its k-th nearest row, or the limit if there are fewer rows; and the
    number of rows up to that distance: int64 (q,) each."""
    nearer = np.cumsum(counts, axis=1)
    reached = nearer >= request.k
    cuts = np.where(reached[:, -1], reached.argmax(axis=1), request.limit).astype(np.int64)
    return cuts, nearer[np.arange(len(cuts)), cuts]


def _groups(sizes: _Counts) -> Iterator[slice]:
    """Divides the queries so that each group has at most _FOUND_ROWS rows to collect, or is a single query."""
    first, total = 0, 0
    for q, size in enumerate(sizes.tolist()):
        if q > first and total + size > _FOUND_ROWS:
            yield slice(first, q)
            first, total = q, 0
        total += size
    yield slice(first, len(sizes))


def _fill(matches: Matches, q: int, view: View, keys: _Counts, request: Request) -> None:
    """Writes the first k of a query's collected rows to the matches, ordered by (distance, id, place)."""
    distances, places = keys >> _PLACE_BITS, keys & ((1 << _PLACE_BITS) - 1)
    ids, numbers = _rows_at(view, places, request.words)
    if len(keys) > request.k:
        # There may be many more rows at the k-th distance than there is room for: those with small ids enter.
        ties = distances == distances.max()
        room = request.k - int(np.count_nonzero(~ties))
        kept = ~ties | (ids <= np.partition(ids[ties], room - 1)[room - 1])
        distances, places, ids, numbers = distances[kept], places[kept], ids[kept], numbers[kept]
    order = np.lexsort((places, ids, distances))[: request.k]
    matches.counts[q] = len(order)
    matches.distances[q, : len(order)] = distances[order]
    matches.ids[q, : len(order)] = ids[order]
    matches.numbers[q, : len(order)] = numbers[order]
    matches.has_equal_neighbours |= bool(has_equal(distances[order].astype(np.uint16), ids[order]))


def _rows_at(view: View, places: _Counts, words: int) -> tuple[Ids, Numbers]:
    """Returns the ids and the numbers of the rows at these places."""
    positions, rows = np.divmod(places, chunk_rows(words))
    ids, numbers = np.zeros(len(places), np.uint64), np.zeros(len(places), np.uint32)
    for position in np.unique(positions):
        here = positions == position
        ids[here] = view.chunks[position].ids[rows[here]]
        numbers[here] = view.chunks[position].numbers[rows[here]]
    return ids, numbers
