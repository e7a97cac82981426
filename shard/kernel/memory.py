"""Owns the allocation of large arrays, and access to arrays by address.

Compiled functions take addresses for two reasons. Numba counts references to each array argument, which costs more
than the work of a short function; and a variable number of arrays can be passed only by address. The caller must
keep the arrays alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_L2_CACHE = 2
_PAGE = 4_096


def zeros(*wanted: tuple[tuple[int, ...], np.dtype[Any]]) -> list[npt.NDArray[Any]]:
    """Allocates arrays of zeros, each aligned to a page.

    All share one allocation, because NumPy requests huge pages only for allocations of 4 MB or more. Pages are
    mapped on first use, so an almost empty chunk costs little.

    Args:
        wanted: The shape and dtype of each array.
    """
    sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in wanted]
    room = np.zeros(sum(sizes) + _PAGE * (len(wanted) + 1), np.uint8)
    arrays, at = [], -room.ctypes.data % _PAGE
    for size, (shape, dtype) in zip(sizes, wanted, strict=True):
        arrays.append(room[at : at + size].view(dtype).reshape(shape))
        at += -(-size // _PAGE) * _PAGE
    return arrays


@intrinsic
def load_32(typingctx, address, index):  # type: ignore[no-untyped-def]
    """Returns element `index` of the uint32 array at `address`."""
    return _load(types.uint32, address, index)


@intrinsic
def load_64(typingctx, address, index):  # type: ignore[no-untyped-def]
    """Returns element `index` of the uint64 array at `address`."""
    return _load(types.uint64, address, index)


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


def _element(builder: ir.IRBuilder, bits: int, address: ir.Value, index: ir.Value) -> ir.Value:
    return builder.gep(builder.inttoptr(address, ir.IntType(bits).as_pointer()), [index])
