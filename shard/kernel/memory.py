"""Owns memory: where large arrays lie, and access to arrays by their address.

A function of Numba's counts references to each array that it is given, which costs more than what a short function
does; and any number of arrays can be told only by their addresses. Whoever uses these keeps the arrays alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_SECOND_CACHE = 2
_PAGE = 4_096


def zeros(*wanted: tuple[tuple[int, ...], np.dtype[Any]]) -> list[npt.NDArray[Any]]:
    """Arrays of zeros that begin a page each. One piece of memory for all: NumPy asks for huge pages from 4 MB on.
    It is mapped when first touched, so an almost empty chunk costs little."""
    sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in wanted]
    room = np.zeros(sum(sizes) + _PAGE * (len(wanted) + 1), np.uint8)
    arrays, at = [], -room.ctypes.data % _PAGE
    for size, (shape, dtype) in zip(sizes, wanted, strict=True):
        arrays.append(room[at : at + size].view(dtype).reshape(shape))
        at += -(-size // _PAGE) * _PAGE
    return arrays


@intrinsic
def load_32(typingctx, address, index):  # type: ignore[no-untyped-def]
    """Element `index` of the uint32 array at `address`."""
    return _load(types.uint32, address, index)


@intrinsic
def load_64(typingctx, address, index):  # type: ignore[no-untyped-def]
    """Element `index` of the uint64 array at `address`."""
    return _load(types.uint64, address, index)


@intrinsic
def store_64(typingctx, address, index, value):  # type: ignore[no-untyped-def]
    """Set element `index` of the uint64 array at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _element(builder, 64, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(address, index, types.uint64), codegen


@intrinsic
def prefetch_at(typingctx, address, offset):  # type: ignore[no-untyped-def]
    """Have a byte of memory brought into the cache. address, offset: uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch_pointer(builder, builder.inttoptr(builder.add(*args), ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), codegen


def prefetch_pointer(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Emit the prefetch of what is at an address, for reading, into the second cache."""
    word = ir.IntType(32)
    pointer = builder.bitcast(address, ir.IntType(8).as_pointer())
    declared = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, declared, "llvm.prefetch.p0")
    builder.call(function, [pointer, word(0), word(_SECOND_CACHE), word(1)])


def _load(kind: Any, address: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_element(builder, kind.bitwidth, *args))

    return kind(address, index), codegen


def _element(builder: ir.IRBuilder, bits: int, address: ir.Value, index: ir.Value) -> ir.Value:
    return builder.gep(builder.inttoptr(address, ir.IntType(bits).as_pointer()), [index])
