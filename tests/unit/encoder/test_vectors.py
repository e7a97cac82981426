"""Files of vectors, as NumPy, faiss, h5py and the benchmarks' own formats write them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest

from encoder.ingest import vector_columns
from encoder.ingest.code_options import CodeOptions, CodeReader
from encoder.ingest.rows import precomputed_of
from encoder.ingest.tables.formats import NAMES, find_tables, format_at, format_of
from encoder.ingest.tables.naming import Row
from encoder.ingest.tables.table import Table
from encoder.ingest.tables.vectors import VECTORS, chunks, layout_of, require_codes, with_keys
from lookalike import CodeSpace
from lookalike.cluster.columns import CodeColumns
from lookalike.model.errors import InvalidRequest

RNG = np.random.default_rng(4)
CODES = RNG.integers(0, 256, (50, 8), np.uint8)
FLOATS = RNG.standard_normal((50, 12)).astype(np.float32)
IDS = RNG.permutation(10_000)[:50]


def opened(path: Path, keys: Path | None = None) -> Table:
    (table,) = with_keys(find_tables(str(path), format_of(str(path))), None if keys is None else str(keys))
    return table


def records(table: Table, format: str | None = None) -> dict[str, bytes]:
    """The codes by key of a file that is read as columns."""
    (batch,) = vector_columns.batches(table, CodeReader(table, CodeOptions(format)))
    assert isinstance(batch, CodeColumns)
    return dict(zip(batch.keys.strings(), (code.tobytes() for code in batch.codes), strict=True))


EXPECTED = {str(row): code.tobytes() for row, code in enumerate(CODES)}


def write_flat(path: Path) -> None:
    index = faiss.IndexBinaryFlat(64)
    index.add(CODES)
    faiss.write_index_binary(index, str(path))


def write_map(path: Path, kind: Any) -> None:
    index = kind(faiss.IndexBinaryFlat(64))
    index.add_with_ids(CODES, IDS)
    faiss.write_index_binary(index, str(path))


def test_a_flat_index_of_faiss_has_positions_as_keys(tmp_path: Path) -> None:
    write_flat(tmp_path / "f.faiss")
    table = opened(tmp_path / "f.faiss")
    assert records(table) == EXPECTED
    assert "the positions 0, 1, … are the keys; --keys FILE" in table.naming.remarks[0]


@pytest.mark.parametrize("kind", [faiss.IndexBinaryIDMap, faiss.IndexBinaryIDMap2])
def test_an_id_map_of_faiss_has_its_ids_as_keys(tmp_path: Path, kind: Any) -> None:
    write_map(tmp_path / "m.faiss", kind)
    table = opened(tmp_path / "m.faiss")
    assert records(table) == {str(key): code.tobytes() for key, code in zip(IDS, CODES, strict=True)}
    assert table.naming.remarks == ()


def test_other_indexes_of_faiss_are_refused_with_the_remedy(tmp_path: Path) -> None:
    index = faiss.IndexBinaryHNSW(64, 8)
    index.add(CODES)
    faiss.write_index_binary(index, str(tmp_path / "h.faiss"))
    with pytest.raises(InvalidRequest, match=r"h\.faiss .* type 'IBHf'; write its vectors as an IndexBinaryFlat"):
        opened(tmp_path / "h.faiss")
    plain = faiss.IndexFlatL2(12)
    plain.add(FLOATS)
    faiss.write_index(plain, str(tmp_path / "l.index"))
    with pytest.raises(InvalidRequest, match=r"l\.index .* type 'IxF2'"):
        opened(tmp_path / "l.index")


@pytest.mark.parametrize("write", [write_flat, lambda path: write_map(path, faiss.IndexBinaryIDMap)])
@pytest.mark.parametrize("kept", [3, 20, 40, 200, -1])
def test_a_cut_index_of_faiss_is_refused(tmp_path: Path, write: Callable[[Path], None], kept: int) -> None:
    path = tmp_path / "f.faiss"
    write(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InvalidRequest, match=r"f\.faiss cannot be read"):
        records(opened(path))


@pytest.mark.parametrize("place", [25 + 25, 25 + 25 + 8 + 50 * 8])
def test_an_index_of_faiss_whose_sizes_differ_is_refused(tmp_path: Path, place: int) -> None:
    write_map(tmp_path / "m.faiss", faiss.IndexBinaryIDMap)
    content = bytearray((tmp_path / "m.faiss").read_bytes())
    content[place] -= 1
    (tmp_path / "m.faiss").write_bytes(content)
    with pytest.raises(InvalidRequest, match="damaged or of another version of faiss"):
        opened(tmp_path / "m.faiss")


@pytest.mark.parametrize(
    ("array", "format"),
    [
        (CODES, None),
        (np.unpackbits(CODES, axis=1).astype(bool), None),
        (np.unpackbits(CODES, axis=1).astype(bool).reshape(50, 8, 8), None),
        (np.unpackbits(CODES, axis=1), "bits"),
        (np.unpackbits(CODES, axis=1).astype(np.int64), "bits"),
        ((CODES ^ 0x80).view(np.int8), None),
        (CODES.astype(np.int32), None),
    ],
)
def test_numpy_arrays_of_codes(tmp_path: Path, array: Any, format: str | None) -> None:
    np.save(tmp_path / "a.npy", array)
    assert records(opened(tmp_path / "a.npy"), format) == EXPECTED


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_numpy_arrays_of_zeros_and_ones_are_ambiguous(tmp_path: Path, dtype: Any) -> None:
    np.save(tmp_path / "a.npy", np.unpackbits(CODES, axis=1).astype(dtype))
    with pytest.raises(InvalidRequest, match=r"bits \(64 bits\) or .* \(512 bits\).*--code-format bits"):
        records(opened(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(8, np.uint8), "shape .8,.; use one with two axes"),
        (np.asfortranarray(CODES), "Fortran order; save np.ascontiguousarray"),
        (np.array([["a"]]), "values are <U1; use bits, integers or floats"),
        (np.array([[{}]], object), "holds Python objects"),
    ],
)
def test_other_numpy_arrays_are_refused(tmp_path: Path, array: Any, reason: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InvalidRequest, match=reason):
        opened(tmp_path / "a.npy")


def write_vecs(path: Path, values: Any) -> None:
    prefix = struct.pack("<i", values.shape[1])
    path.write_bytes(b"".join(prefix + row.tobytes() for row in values))


def write_bin(path: Path, values: Any) -> None:
    path.write_bytes(struct.pack("<II", *values.shape) + values.tobytes())


@pytest.mark.parametrize(("name", "write"), [("a.bvecs", write_vecs), ("a.u8bin", write_bin)])
def test_bytes_that_may_be_features_need_a_format_or_a_collection_of_their_width(
    tmp_path: Path, name: str, write: Any
) -> None:
    write(tmp_path / name, CODES)
    table = opened(tmp_path / name)
    for space in (None, CodeSpace(128)):
        with pytest.raises(
            InvalidRequest, match=r"packed codes \(64 bits\) or features; say --code-format packed"
        ):
            require_codes(table, None, space)
    require_codes(table, "packed", None)
    require_codes(table, None, CodeSpace(64))
    assert records(table, "packed") == EXPECTED


def write_npy(path: Path, values: Any) -> None:
    np.save(path, values)


def write_hdf5(path: Path, values: Any) -> None:
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = values, values[:2]


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.fvecs", write_vecs), ("a.fbin", write_bin), ("a.npy", write_npy), ("a.hdf5", write_hdf5)],
)
def test_floats_are_features(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, FLOATS)
    table = opened(tmp_path / name)
    assert table.columns == {"key", "features"}
    assert not vector_columns.fits(table)
    (rows,) = table.batches()
    found = [precomputed_of(table, 0, row) for row in rows if isinstance(row, dict)]
    assert [row.key for row in found] == list(EXPECTED)
    assert np.array_equal(np.stack([row.features for row in found if row.features is not None]), FLOATS)


@pytest.mark.parametrize("values", [CODES, np.unpackbits(CODES, axis=1).astype(bool)])
def test_hdf5_files_of_ann_benchmarks(tmp_path: Path, values: Any) -> None:
    write_hdf5(tmp_path / "a.hdf5", values)
    assert records(opened(tmp_path / "a.hdf5")) == EXPECTED


def test_hdf5_files_without_the_dataset_or_the_library_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vectors"] = CODES
    with pytest.raises(InvalidRequest, match="no dataset 'train'"):
        opened(tmp_path / "a.h5")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InvalidRequest, match="pip install h5py"):
        opened(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.fvecs", struct.pack("<i2f", 2, 1, 2) + b"x", "are not a multiple of a vector's 12"),
        ("a.bvecs", b"\2\0\0\0ab\3\0\0\0cd", "several widths"),
        ("a.fbin", struct.pack("<II", 3, 4), "it has 8 bytes, not 56, for 3 vectors"),
        ("a.u8bin", b"abc", "cannot be read"),
        ("a.npy", b"\x93NUMPY", "cannot be read"),
        ("a.npz", b"PK\x03\x04", "an archive of arrays; write one of them with np.save"),
        ("a.faiss", b"no index", "not an index that faiss wrote"),
        ("a.h5", b"no HDF5", "cannot be read"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=reason):
        records(opened(tmp_path / name), "packed")


@pytest.mark.parametrize("rows", [1, 7, 50, 1_000])
def test_chunks_are_all_vectors_in_order(tmp_path: Path, rows: int) -> None:
    write_vecs(tmp_path / "other.bvecs", CODES)
    content = bytearray((tmp_path / "other.bvecs").read_bytes())
    content[12 * 40] = 9
    (tmp_path / "other.bvecs").write_bytes(content)
    other = opened(tmp_path / "other.bvecs")
    with pytest.raises(ValueError, match="several widths"):
        list(chunks(other, layout_of(other), rows))
    for name, write in (("a.npy", write_npy), ("a.bvecs", write_vecs), ("a.h5", write_hdf5)):
        write(tmp_path / name, CODES)
        table = opened(tmp_path / name)
        found = list(chunks(table, layout_of(table), rows))
        assert max(len(chunk) for chunk in found) <= rows
        assert np.array_equal(np.concatenate(found), CODES)


KEYS = [f"photo-{row}.jpg" for row in range(50)]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("k.txt", lambda path: path.write_text("\n".join(KEYS))),
        ("k.csv", lambda path: path.write_bytes("\r\n".join([*KEYS, ""]).encode("utf-8-sig"))),
        ("k.json", lambda path: path.write_text(json.dumps(KEYS))),
        ("k.npy", lambda path: np.save(path, np.array(KEYS))),
    ],
)
def test_keys_of_another_file(tmp_path: Path, name: str, write: Any) -> None:
    np.save(tmp_path / "a.npy", CODES)
    write(tmp_path / name)
    assert records(opened(tmp_path / "a.npy", tmp_path / name)) == dict(zip(KEYS, EXPECTED.values(), strict=True))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("k.txt", "a\nb\n", "has 2 keys for 50 vectors"),
        ("k.txt", "\n".join(map(str, range(51))), "has 51 keys for 50 vectors"),
        ("k.json", "{}", "a JSON dict; write a list"),
        ("k.json", json.dumps([1.5] * 50), "number 0 of .* is float"),
        ("none.txt", None, "does not exist"),
    ],
)
def test_unsuitable_files_of_keys_are_refused(tmp_path: Path, name: str, content: str | None, reason: str) -> None:
    np.save(tmp_path / "a.npy", CODES)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequest, match=reason):
        records(opened(tmp_path / "a.npy", tmp_path / name))


def test_keys_belong_to_one_file_of_vectors(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, CODES)
    with pytest.raises(InvalidRequest, match="belongs to one file of vectors"):
        with_keys(find_tables(str(tmp_path), "npy"), "k.txt")
    with pytest.raises(InvalidRequest, match=r"a\.npy and .*b\.npy have none, and their positions"):
        with_keys(find_tables(str(tmp_path), "npy"), None)


def test_an_invalid_key_makes_its_vector_a_row_of_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CODES)
    (tmp_path / "k.txt").write_text("\n".join(["", *KEYS[1:]]))
    table = opened(tmp_path / "a.npy", tmp_path / "k.txt")
    reader = CodeReader(table, CodeOptions())
    (rows,) = vector_columns.batches(table, reader)
    assert isinstance(rows, list)
    with pytest.raises(InvalidRequest, match="key: missing"):
        precomputed_of(table, 0, _plain(rows[0]), reader.reading)
    assert precomputed_of(table, 1, _plain(rows[1]), reader.reading).code == CODES[1].tobytes()


def _plain(row: Row) -> dict[str, Any]:
    assert isinstance(row, dict)
    return row


def test_compressed_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.npy.gz").write_bytes(b"x")
    with pytest.raises(InvalidRequest, match="decompress files of vectors first"):
        opened(tmp_path / "a.npy.gz")


@pytest.mark.parametrize(
    ("name", "write", "format"),
    [
        ("index.bin", write_flat, "faiss"),
        ("map", lambda path: write_map(path, faiss.IndexBinaryIDMap2), "faiss"),
        ("data.dat", lambda path: write_hdf5(path, CODES), "hdf5"),
        ("other.dat", lambda path: path.write_bytes(b"other"), "images"),
    ],
)
def test_content_tells_the_format_of_a_file_with_another_ending(
    tmp_path: Path, name: str, write: Callable[[Path], None], format: str
) -> None:
    write(tmp_path / name)
    assert format_at(str(tmp_path / name)) == format


def test_every_format_of_vectors_can_be_named() -> None:
    assert {format.name for format in VECTORS} <= set(NAMES)
