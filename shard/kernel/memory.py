"""Owns the allocation of large arrays, and access to arrays by address.

Compiled functions take addresses for two reasons. Numba counts references to each array argument, which costs more
than the work of a short function; and a variable number of arrays can be passed only by address. The caller must
keep the arrays alive."""

from __future__ import annotations

import logging
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

log = logging.getLogger("shard.kernel")

_L2_CACHE = 2
_PAGE = 4_096
_HUGE_PAGE = 2 << 20
_MIN_HUGE_BYTES = 2 * _HUGE_PAGE


def zeros(*wanted: tuple[tuple[int, ...], np.dtype[Any]]) -> list[npt.NDArray[Any]]:
    """Allocates arrays of zeros, each aligned to a page.

    All share one allocation. If it is large, it consists of huge pages if the system has them, and the first array
    is aligned to one. Pages are mapped on first use, so an almost empty chunk takes at most one for each array.

    Args:
        wanted: The shape and dtype of each array.

    Raises:
        MemoryError: If the system has no room for the allocation.
    """
    sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in wanted]
    room = _room(sum(-(-size // _PAGE) * _PAGE for size in sizes))
    arrays, at = [], 0
    for size, (shape, dtype) in zip(sizes, wanted, strict=True):
        arrays.append(room[at : at + size].view(dtype).reshape(shape))
        at += -(-size // _PAGE) * _PAGE
    return arrays


def _room(size: int) -> npt.NDArray[np.uint8]:
    """Returns `size` zero bytes that begin at a page, and at a huge page if they are many.

    NumPy does not align its allocations to huge pages, so both ends of each consist of small ones, which a scan
    reads more slowly."""
    if size < _MIN_HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        room, page = np.zeros(size + _PAGE, np.uint8), _PAGE
    else:
        page = _HUGE_PAGE
        try:
            length = -(-size // page) * page + page
            mapped = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"{size} bytes for codes: {error.strerror}") from error
        try:
            mapped.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:  # a kernel without huge pages
            log.debug("no huge pages: %s", error)
        room = np.frombuffer(mapped, np.uint8)
    start = -room.ctypes.data % page
    return room[start : start + size]


@intrinsic
def load_32(typingctx, address, index):  # type: ignore[no-untyped-def]
    """Returns element `index` of the uint32 array at `address`."""
    return _load(types.uint32, address, index)


@intrinsic
def load_64(typingctx, address, index):  # type: ignore[no-untyped-def]
    """Returns element `index` of the uint64 array at `address`."""
    return _load(types.uint64, address, index)


@intrinsic
def pointer_32(typingctx, address):  # type: ignore[no-untyped-def]
    """Returns a pointer to the uint32 array at `address`, for `numba.carray`."""
    return _pointer(types.uint32, address)


@intrinsic
def pointer_64(typingctx, address):  # type: ignore[no-untyped-def]
    """Returns a pointer to the uint64 array at `address`, for `numba.carray`."""
    return _pointer(types.uint64, address)


@intrinsic
def store_64(typingctx, address, index, value):  # type: ignore[no-untyped-def]
    """Sets element `index` of the uint64 array at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _element(builder, 64, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(address, index, types.uint64), codegen


@intrinsic
def prefetch_at(typingctx, address, offset):  # type: ignore[no-untyped-def]
    """Prefetches the byte at `address + offset` (both uint64) into the cache."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch_pointer(builder, builder.inttoptr(builder.add(*args), ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), codegen


def prefetch_pointer(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Emits a prefetch of an address, for reading, into the L2 cache."""
    word = ir.IntType(32)
    pointer = builder.bitcast(address, ir.IntType(8).as_pointer())
    declared = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, declared, "llvm.prefetch.p0")
    builder.call(function, [pointer, word(0), word(_L2_CACHE), word(1)])


def _load(kind: Any, address: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_element(builder, kind.bitwidth, *args))

    return kind(address, index), codegen


def _pointer(kind: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.CPointer(kind)))

    return types.CPointer(kind)(address), codegen


def _element(builder: ir.IRBuilder, bits: int, address: ir.Value, index: ir.Value) -> ir.Value:
    return builder.gep(builder.inttoptr(address, ir.IntType(bits).as_pointer()), [index])
