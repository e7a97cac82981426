"""Owns the vector code of the scan: it computes the distances of queries to blocks of codes, and finds the codes
within a bound.

The code uses LLVM vector types of eight 64-bit elements, because Numba's own loops become slow when many words and
queries are unrolled. LLVM lowers it to the processor's instructions: vpopcntq under AVX-512, byte shuffles under
AVX2 and SSE, cnt under NEON. A block stores LANES codes, one per lane, word by word (word, lane), so no sum
crosses lanes.

For several queries, words are processed four at a time (`_PASS`): that many words of the queries stay in registers
or in the L1 cache, and a block is read as a few adjacent streams. For one query, a block is read in the order of
its addresses. `shape` is a tuple of which only the length matters. The length is known at compile time and gives
the number of words in the first pass (see `shape_of`), so eight compilations serve every width."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from shard.kernel.memory import prefetch_pointer

LANES = 64
_WIDTH = 8
_PASS = 4
_STEPS = LANES // _WIDTH
# How far ahead of the current codes the next ones are prefetched into the L2 cache.
_PREFETCH_BYTES = 16_384

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_VECTOR = ir.VectorType(_I64, _WIDTH)
_HALVES = ir.VectorType(_I32, 2 * _WIDTH)


@functools.cache
def shape_of(words: int) -> tuple[int, ...]:
    """Returns `shape` for codes of `words` 64-bit words.

    Length 1..4 means a single pass over 1..4 words; 5..8 means several passes, the first over 1..4 words."""
    head = words % _PASS or _PASS
    return (0,) * (words if words <= _PASS else _PASS + head)


@intrinsic
def popcount(typingctx, value):  # type: ignore[no-untyped-def]
    """Returns the number of set bits of a uint64, by a native instruction if the processor has one."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [_I64]), args)

    return types.uint64(types.uint64), codegen


@intrinsic
def prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Prefetches an element of a one-dimensional array into the cache."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        prefetch_pointer(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, index), codegen


@intrinsic
def tile_minima(typingctx, codes, first, count, queries, query, minima, at, shape, group):  # type: ignore[no-untyped-def]
    """Computes the nearest distance in blocks first..first+count for queries query..query+len(group).

    Args:
        codes: uint64 (blocks, words, LANES), aligned to 64 bytes.
        first: The first block.
        count: The number of blocks.
        queries: uint64 (n, words).
        query: The first query.
        minima: uint16, contiguous. The function writes the nearest distance of each query, in bits.
        at: The position of the first query's minimum in the flattened `minima`; the others' follow it.
        shape: See `shape_of`.
        group: A tuple of which only the length matters: the number of queries.
    """
    signature = types.void(codes, first, count, queries, query, minima, at, shape, group)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, first, count, _, _, _, at = args[:7]
        scan = _Scan(context, builder, signature, args, len(shape), len(group))
        out = scan.data(5)
        far = ir.Constant(_VECTOR, [0xFFFF] * _WIDTH)
        nearest = [cgutils.alloca_once_value(builder, far) for _ in range(scan.group)]

        def take(j: int, step: ir.Value, distances: ir.Value) -> None:
            builder.store(_minimum(builder, builder.load(nearest[j]), distances), nearest[j])

        scan.blocks(first, count, take)
        for j in range(scan.group):
            lanes = builder.trunc(builder.load(nearest[j]), ir.VectorType(_I16, _WIDTH))
            least = _call(builder, "llvm.vector.reduce.umin.v8i16", _I16, lanes)
            builder.store(least, builder.gep(out, [builder.add(at, _I64(j))]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def tile_within(typingctx, codes, first, count, queries, query, bound, lanes, shape):  # type: ignore[no-untyped-def]
    """Compares blocks first..first+count with one query.

    Args:
        codes: uint64 (blocks, words, LANES), aligned to 64 bytes.
        first: The first block.
        count: The number of blocks.
        queries: uint64 (n, words).
        query: The query.
        bound: uint64, in bits.
        lanes: uint64 (count,). The function writes one element per block, with one bit per lane that is set if the
            code is within `bound`.
        shape: See `shape_of`.

    Returns:
        The last element of `lanes`.
    """
    signature = types.uint64(codes, first, count, queries, query, bound, lanes, shape)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, first, count, _, _, bound = args[:6]
        scan = _Scan(context, builder, signature, args, len(shape), 1)
        out = scan.data(6)
        limit = _splat(builder, bound)
        found = cgutils.alloca_once_value(builder, _I64(0))

        def take(j: int, step: ir.Value, distances: ir.Value) -> None:
            within = _mask(builder, "<=", distances, limit)
            before = builder.select(builder.icmp_unsigned("==", step, _I64(0)), _I64(0), builder.load(found))
            bits = builder.or_(before, builder.shl(within, builder.mul(step, _I64(_WIDTH))))
            builder.store(bits, found)

        def finish(block: ir.Value) -> None:
            builder.store(builder.load(found), builder.gep(out, [block]))

        scan.blocks(first, count, take, finish)
        return builder.load(found)

    return signature, codegen


@intrinsic
def ids_below(typingctx, ids, first, bound):  # type: ignore[no-untyped-def]
    """Returns one bit per lane of a block, set if ids[first + lane] < bound. ids: uint64, 64-byte aligned at
    `first`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        limit = _splat(builder, args[2])
        found = _I64(0)
        for step in range(_STEPS):
            address = builder.gep(data, [builder.add(args[1], _I64(step * _WIDTH))])
            some = builder.load(builder.bitcast(address, _VECTOR.as_pointer()), align=64)
            found = builder.or_(found, builder.shl(_mask(builder, "<", some, limit), _I64(step * _WIDTH)))
        return found

    return types.uint64(ids, first, bound), codegen


Take = Callable[[int, ir.Value, ir.Value], None]
Finish = Callable[[ir.Value], None]


class _Scan:
    """Emits the loops over blocks, words and lanes for a group of queries. `args` begins with codes, first block,
    number of blocks, queries, first query."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value], shape: int, group: int
    ) -> None:
        self._context, self._builder, self._signature, self._args = context, builder, signature, args
        self.group = group
        self._codes, self._queries = self.data(0), self.data(3)
        shapes = context.make_array(signature.args[3])(context, builder, args[3]).shape
        self._words = builder.extract_value(shapes, 1)
        self._first_query = builder.mul(args[4], self._words)
        self._single = shape <= _PASS
        self._head = shape if self._single else shape - _PASS

    def data(self, position: int) -> ir.Value:
        """Returns a pointer to the elements of the array argument at `position`."""
        array = self._context.make_array(self._signature.args[position])
        return array(self._context, self._builder, self._args[position]).data

    def blocks(self, first: ir.Value, count: ir.Value, take: Take, finish: Finish = lambda block: None) -> None:
        """Emits the loop over blocks. For each block it calls `take(query, step, distances)` for every query and
        every vector of lanes, then `finish(index)` with the block's index from `first`."""
        if self.group == 1:
            self._in_order(first, count, take, finish)
            return
        b = self._builder
        words = _I64(self._head) if self._single else self._words
        size = b.mul(words, _I64(LANES))
        if self._single:
            whole = self._broadcast(_I64(0), self._head)
            with cgutils.for_range(b, count) as loop:
                self._lanes(b.mul(b.add(first, loop.index), size), _I64(0), whole, None, take)
                finish(loop.index)
            return
        sums = cgutils.alloca_once(b, _VECTOR, size=_I64(self.group * _STEPS))
        middles = b.sub(b.udiv(b.sub(words, _I64(self._head)), _I64(_PASS)), _I64(1))
        with cgutils.for_range(b, count) as loop:
            at = b.mul(b.add(first, loop.index), size)
            self._lanes(at, _I64(0), self._broadcast(_I64(0), self._head), None, self._keep(sums))
            with cgutils.for_range(b, middles) as middle:
                word = b.add(_I64(self._head), b.mul(middle.index, _I64(_PASS)))
                self._lanes(at, word, self._broadcast(word, _PASS), sums, self._keep(sums))
            word = b.sub(words, _I64(_PASS))
            self._lanes(at, word, self._broadcast(word, _PASS), sums, take)
            finish(loop.index)

    def _in_order(self, first: ir.Value, count: ir.Value, take: Take, finish: Finish) -> None:
        """Emits the loop over blocks for one query. It reads the codes in the order of their addresses, so the
        processor's own prefetching reaches the memory's speed, and sums up a whole block in registers."""
        b = self._builder
        sums = [cgutils.alloca_once(b, _VECTOR) for _ in range(_STEPS)]
        with cgutils.for_range(b, count) as loop:
            block = b.mul(b.add(first, loop.index), b.mul(self._words, _I64(LANES)))
            for total in sums:
                b.store(ir.Constant(_VECTOR, [0] * _WIDTH), total)
            # Not unrolled, even if the number of words is known: each load would run through the codes at a stride
            # that is too long for the prefetching.
            with cgutils.for_range(b, self._words) as word:
                self._add_word(b.add(block, b.mul(word.index, _I64(LANES))), word.index, sums)
            for step, total in enumerate(sums):
                take(0, _I64(step), b.load(total))
            finish(loop.index)

    def _add_word(self, start: ir.Value, word: ir.Value, sums: Sequence[ir.Value]) -> None:
        """Adds to `sums`, one per vector of lanes, the bits in which a block's word differs from the query's.
        start: the position of the block's word."""
        b = self._builder
        query = _splat(b, b.load(b.gep(self._queries, [b.add(self._first_query, word)])))
        for step, total in enumerate(sums):
            address = b.gep(self._codes, [b.add(start, _I64(step * _WIDTH))])
            codes = b.load(b.bitcast(address, _VECTOR.as_pointer()), align=64)
            differing = _call(b, "llvm.ctpop.v8i64", _VECTOR, b.xor(codes, query))
            b.store(b.add(b.load(total), differing), total)

    def _keep(self, sums: ir.Value) -> Take:
        def keep(j: int, step: ir.Value, distances: ir.Value) -> None:
            self._builder.store(distances, self._slot(sums, j, step))

        return keep

    def _slot(self, sums: ir.Value, j: int, step: ir.Value) -> ir.Value:
        return self._builder.gep(sums, [self._builder.add(step, _I64(j * _STEPS))])

    def _broadcast(self, word: ir.Value, count: int) -> list[list[ir.Value]]:
        """Returns the queries' words word..word+count as [query][word], each word repeated in a vector."""
        b = self._builder
        rows = [b.add(self._first_query, b.mul(self._words, _I64(j))) for j in range(self.group)]
        at = [[b.add(b.add(row, word), _I64(w)) for w in range(count)] for row in rows]
        return [[_splat(b, b.load(b.gep(self._queries, [index]))) for index in row] for row in at]

    def _lanes(
        self, block: ir.Value, word: ir.Value, queries: list[list[ir.Value]], sums: ir.Value | None, take: Take
    ) -> None:
        """Emits the loop over the lanes: it counts the bits in which the queries' words differ from the block's,
        adds the counts to `sums` if given, and passes the totals to `take`."""
        b = self._builder
        with cgutils.for_range(b, _I64(_STEPS)) as loop:
            totals = [None if sums is None else b.load(self._slot(sums, j, loop.index)) for j in range(self.group)]
            lane = b.add(block, b.mul(loop.index, _I64(_WIDTH)))
            for w in range(len(queries[0])):
                address = b.gep(self._codes, [b.add(lane, b.mul(b.add(word, _I64(w)), _I64(LANES)))])
                prefetch_pointer(b, b.gep(address, [_I64(_PREFETCH_BYTES // 8)]))
                codes = b.load(b.bitcast(address, _VECTOR.as_pointer()), align=64)
                for j, query in enumerate(queries):
                    differing = _call(b, "llvm.ctpop.v8i64", _VECTOR, b.xor(codes, query[w]))
                    total = totals[j]
                    totals[j] = differing if total is None else b.add(total, differing)
            for j, total in enumerate(totals):
                take(j, loop.index, total)


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, _WIDTH), [0] * _WIDTH))


def _mask(builder: ir.IRBuilder, compare: str, a: ir.Value, b: ir.Value) -> ir.Value:
    """Returns one bit per vector element, in the low bits of a uint64."""
    return builder.zext(builder.bitcast(builder.icmp_unsigned(compare, a, b), _I8), _I64)


def _minimum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Returns the minima of numbers below 2**32: a 32-bit minimum costs half as much as a 64-bit one."""
    a, b = builder.bitcast(a, _HALVES), builder.bitcast(b, _HALVES)
    return builder.bitcast(_call(builder, "llvm.umin.v16i32", _HALVES, a, b), _VECTOR)


def _call(builder: ir.IRBuilder, name: str, kind: ir.Type, *args: ir.Value) -> ir.Value:
    declared = ir.FunctionType(kind, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), args)
