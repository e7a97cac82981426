"""Owns files of vectors without other columns: binary indexes of faiss, NumPy arrays, the files of
big-ann-benchmarks and of TEXMEX (.fvecs, .bvecs), and the HDF5 files of ann-benchmarks.

Integers and bits are codes, floats are features. The keys are the ids in the file, those of another file
(`encoder.ingest.tables.key_files`), or the positions. Files are read in chunks, never whole."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import fsspec
import numpy as np
import numpy.typing as npt

from encoder.ingest.sources import explained
from encoder.ingest.tables.key_files import keys_of
from encoder.ingest.tables.naming import Kind, Row
from encoder.ingest.tables.table import BATCH_ROWS, Format, Table
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest

_HDF5_DATASET = "train"
_FAISS_HEADER = struct.Struct("<4siiqBi")  # type, bits, bytes of a code, rows, is trained, metric
_FAISS_MAPS = (b"IBMp", b"IBM2")
_FAISS_FLAT = b"IBxF"
_BYTES, _SIGNED, _FLOATS = np.dtype("u1"), np.dtype("i1"), np.dtype("<f4")

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where the vectors lie in a file.

    Attributes:
        count: How many vectors there are.
        width: How many values each has.
        dtype: The values' type.
        start: The offset of the first vector, in bytes; -1 for the dataset of an HDF5 file.
        prefix: The number of bytes in front of each vector, which hold its width; 0 if there are none.
        ids: The offset of the vectors' ids, int64; None if the file has none.
        may_be_features: Whether integers may be features, not codes.
    """

    count: int
    width: int
    dtype: np.dtype[Any]
    start: int
    prefix: int = 0
    ids: int | None = None
    may_be_features: bool = False

    @property
    def stride(self) -> int:
        """The bytes from a vector to the next."""
        return self.prefix + self.width * self.dtype.itemsize

    @property
    def has_features(self) -> bool:
        """Whether the vectors are features."""
        return self.dtype.kind == "f"


def layout_of(table: Table) -> Layout:
    """Returns where the vectors of a table lie. Raises ValueError if the file is malformed."""
    with _opened(table.url) as file:
        return _LAYOUTS[table.format.name](file, table.url.lower())


def chunks(table: Table, layout: Layout, rows: int) -> Iterator[Array]:
    """Yields the vectors (n, width) in order, at most `rows` at a time. Raises ValueError if the file is short."""
    with _opened(table.url) as file:
        if layout.start < 0:
            with _dataset(file) as dataset:
                for first in range(0, layout.count, rows):
                    yield dataset[first : first + rows]
            return
        file.seek(layout.start)
        for first in range(0, layout.count, rows):
            count = min(rows, layout.count - first)
            records = _read(file, count * layout.stride).reshape(count, layout.stride)
            widths = np.ascontiguousarray(records[:, : layout.prefix]).view("<i4")
            if (widths != layout.width).any():
                raise ValueError("the vectors have several widths")
            values = np.ascontiguousarray(records[:, layout.prefix :])
            yield values.view(layout.dtype).reshape(count, layout.width)


def keys_of_vectors(table: Table, layout: Layout, rows: int) -> Iterator[list[str]]:
    """Yields the vectors' keys, at most `rows` at a time: those of the table's file of keys, the ids in the file,
    or the positions."""
    if table.keys is not None:
        return keys_of(table.keys, layout.count, rows)
    if layout.ids is not None:
        return _ids(table, layout, rows)
    return (
        [str(row) for row in range(first, min(first + rows, layout.count))]
        for first in range(0, layout.count, rows)
    )


def require_codes(table: Table, format: str | None, space: CodeSpace | None) -> None:
    """Raises InvalidRequest if a file's integers may be features.

    Args:
        table: A file of vectors.
        format: The format of codes that the user named, or None.
        space: The code space of the collection; None if it does not exist.
    """
    with explained(table.url):
        layout = layout_of(table)
    if layout.has_features or not layout.may_be_features or format is not None:
        return
    if space is None or space.bits != 8 * layout.width:
        raise InvalidRequest(
            f"code: {table.url} is ambiguous: {layout.width:,} bytes a vector may be packed codes"
            f" ({8 * layout.width:,} bits) or features; say --code-format packed, or write features as floats"
        )


def with_keys(tables: list[Table], keys: str | None) -> list[Table]:
    """Returns tables with a file of keys for the file of vectors, or with a remark that its keys are positions.
    Raises InvalidRequest if there is a file of keys, but not exactly one file of vectors."""
    vectors = [table for table in tables if table.format in VECTORS]
    if keys is not None and (len(vectors) != 1 or len(tables) != 1):
        raise InvalidRequest(
            f"keys: a file of keys belongs to one file of vectors ({', '.join(f.name for f in VECTORS)}); ingest"
            " each in a separate job"
        )
    if keys is not None:
        return [dataclasses.replace(tables[0], keys=keys)]
    without = [table for table in vectors if not _has_keys(table)]
    if len(without) > 1:
        raise InvalidRequest(
            f"keys: {without[0].url} and {without[1].url} have none, and their positions would be the same keys;"
            " ingest each in a separate job with --keys FILE"
        )
    return [_with_remark(table) if table in without else table for table in tables]


def _has_keys(table: Table) -> bool:
    with explained(table.url):
        return layout_of(table).ids is not None


def _with_remark(table: Table) -> Table:
    remark = f"{table.url} has no keys: the positions 0, 1, … are the keys; --keys FILE names others"
    naming = dataclasses.replace(table.naming, remarks=(*table.naming.remarks, remark))
    return dataclasses.replace(table, naming=naming)


def _ids(table: Table, layout: Layout, rows: int) -> Iterator[list[str]]:
    """Yields the vectors' ids as text, at most `rows` at a time."""
    assert layout.ids is not None
    with _opened(table.url) as file:
        file.seek(layout.ids)
        for first in range(0, layout.count, rows):
            count = min(rows, layout.count - first)
            yield [str(number) for number in _read(file, 8 * count).view("<i8").tolist()]


def npy_layout(file: BinaryIO, dimensions: int = 0) -> Layout:
    """Returns the layout of a NumPy array; the axes after the first make up a vector. dimensions: how many axes
    the array must have; 0 for at least two. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects; save an array of numbers or of text")
    if dimensions not in (0, len(shape)) or (not dimensions and len(shape) < 2):
        wanted = f"{dimensions} axis" if dimensions else "two axes, (vectors, values)"
        raise ValueError(f"an array of shape {shape}; use one with {wanted}")
    if is_fortran and len(shape) > 1:
        raise ValueError("its values are in Fortran order; save np.ascontiguousarray(array)")
    return Layout(shape[0], math.prod(shape[1:]), dtype, file.tell())


def _npy(file: BinaryIO, name: str) -> Layout:
    if name.endswith(".npz"):
        raise ValueError("an archive of arrays; write one of them with np.save")
    return _checked(npy_layout(file), file)


def _faiss(file: BinaryIO, _: str) -> Layout:
    kind, count, width = _faiss_header(file)
    is_map = kind in _FAISS_MAPS
    if is_map:
        kind, count, width = _faiss_header(file)
    if kind != _FAISS_FLAT:
        raise ValueError(
            f"a faiss index of type {kind.decode('ascii', 'replace')!r}; write its vectors as an IndexBinaryFlat"
            " (reconstruct_n returns them)"
        )
    _faiss_size(file, count * width)
    codes = Layout(count, width, _BYTES, file.tell())
    if not is_map:
        return _checked(codes, file)
    file.seek(codes.start + count * width)
    _faiss_size(file, count)
    ids = Layout(count, 8, _BYTES, file.tell())
    _checked(ids, file)
    return dataclasses.replace(codes, ids=ids.start)


def _faiss_header(file: BinaryIO) -> tuple[bytes, int, int]:
    """The type of an index, its number of vectors, and the bytes of each; zeros for a type that is not read."""
    data = file.read(_FAISS_HEADER.size)
    kind = data[:4]
    if not kind.startswith(b"I"):
        raise ValueError("not an index that faiss wrote")
    if kind not in (*_FAISS_MAPS, _FAISS_FLAT):
        return kind, 0, 0
    if len(data) < _FAISS_HEADER.size:
        raise ValueError("it ends in its header")
    _, _, width, count, _, _ = _FAISS_HEADER.unpack(data)
    return kind, count, width


def _faiss_size(file: BinaryIO, expected: int) -> None:
    size = int.from_bytes(file.read(8), "little")
    if size != expected:
        raise ValueError(f"the file is damaged or of another version of faiss ({size:,} values, not {expected:,})")


def _texmex(file: BinaryIO, name: str) -> Layout:
    """The file holds, for each vector, its width, int32, and its values."""
    dtype = _FLOATS if name.endswith(".fvecs") else _BYTES
    width = int.from_bytes(file.read(4), "little")
    stride = 4 + width * dtype.itemsize
    size = _size(file)
    if size % stride:
        raise ValueError(f"{size:,} bytes are not a multiple of a vector's {stride:,}")
    return Layout(size // stride, width, dtype, 0, 4, may_be_features=True)


def _bigann(file: BinaryIO, name: str) -> Layout:
    """The file holds the number of vectors, the number of values in each, both uint32, and the values."""
    dtype = _FLOATS if name.endswith(".fbin") else _SIGNED if name.endswith(".i8bin") else _BYTES
    count, width = struct.unpack("<II", file.read(8))
    return _checked(Layout(count, width, dtype, 8, may_be_features=True), file)


def _hdf5(file: BinaryIO, _: str) -> Layout:
    with _dataset(file) as dataset:
        if len(dataset.shape) != 2:
            raise ValueError(f"dataset {_HDF5_DATASET!r} has shape {dataset.shape}; use one with two axes")
        return Layout(dataset.shape[0], dataset.shape[1], dataset.dtype, -1)


@contextlib.contextmanager
def _dataset(file: BinaryIO) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise InvalidRequest("path: HDF5 files need h5py; install it with pip install h5py") from None
    with h5py.File(file, "r") as content:
        if _HDF5_DATASET not in content:
            raise ValueError(f"it has no dataset {_HDF5_DATASET!r}, which the files of ann-benchmarks have")
        yield content[_HDF5_DATASET]


def _checked(layout: Layout, file: BinaryIO) -> Layout:
    """Raises ValueError unless the file ends with the last vector."""
    expected, size = layout.start + layout.count * layout.stride, _size(file)
    if size != expected:
        raise ValueError(f"it has {size:,} bytes, not {expected:,}, for {layout.count:,} vectors")
    return layout


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _read(file: BinaryIO, size: int) -> npt.NDArray[np.uint8]:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends before its last vector")
    return np.frombuffer(data, np.uint8)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[BinaryIO]:
    if url.lower().endswith(".gz"):
        raise InvalidRequest(f"path: {url} is compressed; decompress files of vectors first")
    with fsspec.open(url, "rb") as file:
        yield cast(BinaryIO, file)


def _opener(name: str) -> Callable[[str, str], Table]:
    def opened(url: str, mark: str) -> Table:
        table = Table(url, _FORMATS[name], {}, mark)
        layout = layout_of(table)
        if layout.dtype.kind not in "biuf":
            raise ValueError(f"its values are {layout.dtype}; use bits, integers or floats")
        values: dict[str, Kind] = {"features": "vector"} if layout.has_features else {"code": "integers"}
        return dataclasses.replace(table, kinds={"key": "text", **values})

    return opened


def _rows(table: Table) -> Iterator[list[Row]]:
    layout = layout_of(table)
    name = "features" if layout.has_features else "code"
    keys = keys_of_vectors(table, layout, BATCH_ROWS)
    for chunk, names in zip(chunks(table, layout, BATCH_ROWS), keys, strict=True):
        yield [{"key": key, name: vector} for key, vector in zip(names, chunk, strict=True)]


_LAYOUTS: dict[str, Callable[[BinaryIO, str], Layout]] = {
    "faiss": _faiss, "npy": _npy, "texmex": _texmex, "bigann": _bigann, "hdf5": _hdf5,
}  # fmt: skip
FAISS = Format("faiss", (".faiss", ".index"), _opener("faiss"), _rows)
NPY = Format("npy", (".npy", ".npz"), _opener("npy"), _rows)
TEXMEX = Format("texmex", (".fvecs", ".bvecs"), _opener("texmex"), _rows)
BIGANN = Format("bigann", (".fbin", ".u8bin", ".i8bin"), _opener("bigann"), _rows)
HDF5 = Format("hdf5", (".hdf5", ".h5"), _opener("hdf5"), _rows)
VECTORS = (FAISS, NPY, TEXMEX, BIGANN, HDF5)
_FORMATS = {format.name: format for format in VECTORS}
