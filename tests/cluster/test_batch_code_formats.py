"""Codes that other tools made: what goes in, what is refused, and that distances are the tool's own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from encoder.hashing import drawn
from lookalike import Client, CodeSpace, Record
from lookalike.cli.collection import create
from lookalike.cli.export import export
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest, NotFound
from tests import hashes_of_tools as tools
from tests.conftest import Cluster

RNG = np.random.default_rng(21)
KEYS = [f"k{number}" for number in range(12)]


def distances(client: Client, collection: str, key: str) -> dict[str, int]:
    """The distance of every record to one of them."""
    (record,) = client.get([key], collection=collection)
    found = client.search(code=record.code, k=1_000, collection=collection)
    return {hit.key: int(hit.distance) for hit in found.hits}


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_json_lines(folder: Path, codes: Sequence[Any]) -> Path:
    return write_lines(
        folder / "t.jsonl", [{"key": key, "code": code} for key, code in zip(KEYS, codes, strict=False)]
    )


def write_parquet(folder: Path, codes: Any) -> Path:
    parquet.write_table(pa.table({"key": KEYS[: len(codes)], "code": codes}), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a collection that does not exist."""
    return "".join(mark if mark.isalnum() else "-" for mark in request.node.name)[:100]


BITS = np.unpackbits(np.array([list(bytes.fromhex(text)) for text in tools.PDQ], np.uint8), axis=1)


@pytest.mark.parametrize("write", [write_json_lines, write_parquet])
@pytest.mark.parametrize("form", ["vector", "hex", "bit-text"])
def test_pdq_in_every_form_has_its_own_distances(
    client: Client, run: Any, tmp_path: Path, name: str, write: Callable[[Path, Any], Path], form: str
) -> None:
    """An array of zeros and ones (pdqhash), hexadecimal digits (threatexchange), and PostgreSQL's bit(256)."""
    codes = {
        "vector": BITS.tolist(),
        "hex": tools.PDQ,
        "bit-text": ["".join(map(str, row)) for row in BITS],
    }[form]
    summary, _ = run(write(tmp_path, codes), collection=name, code_kind="pdq")
    assert summary["stored"] == 12
    assert client.get_collection(name).code_space == CodeSpace.of_kind("pdq")
    assert distances(client, name, "k0") == dict(zip(KEYS, tools.PDQ_DISTANCES, strict=True))
    matches = client.search(code=bytes.fromhex(tools.PDQ[0]), k=100, max_distance=31, collection=name)
    # The threshold of 31 is inclusive.
    assert {hit.key for hit in matches.hits} == {KEYS[0], KEYS[1]}
    assert tools.PDQ_DISTANCES[1] <= 31


def test_the_quality_of_pdq_is_an_attribute(client: Client, run: Any, tmp_path: Path, name: str) -> None:
    rows = [
        {"id": key, "pdq": code, "quality": quality}
        for key, code, quality in zip(KEYS, tools.PDQ, [49, 50, *tools.PDQ_QUALITY[2:]], strict=True)
    ]
    run(write_lines(tmp_path / "p.jsonl", rows), collection=name)
    assert client.get_collection(name).code_space.kind == CodeSpace.of_kind("pdq").kind
    good = client.search(
        code=bytes.fromhex(tools.PDQ[0]), k=100, filter={"quality": {"$gte": 50}}, collection=name
    )
    assert {hit.key for hit in good.hits} == set(KEYS[1:])


@pytest.mark.parametrize("size", [8, 10, 16])
def test_phash_of_imagehash_has_its_own_distances(
    client: Client, run: Any, tmp_path: Path, name: str, size: int, photographs: Path
) -> None:
    pictures = sorted(photographs.rglob("*.jpg"))[:20]
    hashes = {
        path.name + str(n): imagehash.phash(Image.open(path), hash_size=size) for n, path in enumerate(pictures)
    }
    rows = [{"key": key, "phash": str(found)} for key, found in hashes.items()]
    summary, _ = run(write_lines(tmp_path / "p.jsonl", rows), collection=name)
    assert summary["stored"] == 20
    assert client.get_collection(name).code_space == CodeSpace.of_kind("phash", size * size)
    for key, found in hashes.items():
        expected = {other: hashes[other] - found for other in hashes}
        assert distances(client, name, key) == expected


@pytest.mark.parametrize(
    ("kind", "codes", "expected"),
    [
        ("opencv-phash", tools.OPENCV_PHASH, tools.OPENCV_PHASH_DISTANCES),
        ("opencv-blockmean", tools.OPENCV_BLOCKMEAN, tools.OPENCV_BLOCKMEAN_DISTANCES),
    ],
)
def test_bytes_of_opencv_have_its_own_distances(
    client: Client, run: Any, tmp_path: Path, name: str, kind: str, codes: list[str], expected: list[int]
) -> None:
    run(write_parquet(tmp_path, [bytes.fromhex(code) for code in codes]), collection=name, code_kind=kind)
    assert client.get_collection(name).code_space == CodeSpace.of_kind(kind, 4 * len(codes[0]))
    assert distances(client, name, "k0") == dict(zip(KEYS, expected, strict=True))


@pytest.mark.parametrize("kind", [faiss.IndexBinaryFlat, faiss.IndexBinaryIDMap, faiss.IndexBinaryIDMap2])
def test_an_index_of_faiss_keeps_its_neighbours(
    client: Client, run: Any, tmp_path: Path, name: str, kind: Any
) -> None:
    """More vectors than a chunk has."""
    codes = RNG.integers(0, 256, (20_000, 8), np.uint8)
    ids = RNG.permutation(1_000_000)[:20_000]
    if kind is faiss.IndexBinaryFlat:
        index, ids = faiss.IndexBinaryFlat(64), np.arange(20_000)
        index.add(codes)
    else:
        index = kind(faiss.IndexBinaryFlat(64))
        index.add_with_ids(codes, ids)
    faiss.write_index_binary(index, str(tmp_path / "i.faiss"))
    summary, dead = run(tmp_path / "i.faiss", collection=name)
    assert (summary["stored"], dead) == (20_000, [])
    far = 20
    for query in codes[:3]:
        # All within a radius, because faiss orders equal distances otherwise.
        limits, lengths, labels = index.range_search(query[np.newaxis], far + 1)
        assert limits[1] > 5
        expected = {str(label): int(length) for label, length in zip(labels, lengths, strict=True)}
        found = client.search(code=query.tobytes(), k=1_000, max_distance=far, collection=name)
        assert {hit.key: int(hit.distance) for hit in found.hits} == expected


@pytest.mark.parametrize("write", [write_json_lines, write_parquet])
def test_binary_and_ubinary_of_sentence_transformers_are_the_same_codes(
    client: Client, run: Any, tmp_path: Path, name: str, write: Callable[[Path, Any], Path]
) -> None:
    embeddings = RNG.standard_normal((12, 384))
    # As sentence_transformers.quantization.quantize_embeddings does.
    ubinary = np.packbits(embeddings > 0).reshape(12, -1)
    binary = (ubinary.astype(np.int16) - 128).astype(np.int8)
    expected = [row.tobytes() for row in ubinary]
    for forms in (binary.tolist(), ubinary.tolist()):
        run(write(tmp_path, forms), collection=name, code_kind="sentence-transformers")
        assert [record.code for record in client.get(KEYS, collection=name)] == expected


ROWS = RNG.integers(0, 256, (12, 8), np.uint8)


@pytest.mark.parametrize(
    "codes",
    [
        ROWS.tolist(),
        pa.array(ROWS.tolist(), pa.list_(pa.uint8())),
        pa.array(ROWS.tolist(), pa.list_(pa.uint8(), 8)),
        pa.array((ROWS ^ 0x80).view(np.int8).tolist(), pa.list_(pa.int8())),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [8]), pa.array(ROWS.tolist(), pa.list_(pa.uint8(), 8))
        ),
        [row.tobytes().hex() for row in ROWS],
        [base64.b64encode(row.tobytes()).decode() for row in ROWS],
        np.unpackbits(ROWS, axis=1).astype(bool).tolist(),
    ],
)
@pytest.mark.parametrize("where", [None, '{"n": {"$gte": 0}}'])
def test_unambiguous_forms_go_in_as_columns_and_as_rows(
    client: Client, run: Any, tmp_path: Path, name: str, codes: Any, where: str | None
) -> None:
    """Milvus, polars, datasets and Ray Data. A filter makes the job read rows."""
    parquet.write_table(pa.table({"key": KEYS, "code": codes, "n": range(12)}), tmp_path / "t.parquet")
    summary, _ = run(tmp_path / "t.parquet", collection=name, where=where)
    assert summary["stored"] == 12
    assert client.get_collection(name).code_space == CodeSpace(64)
    assert [record.code for record in client.get(KEYS, collection=name)] == [row.tobytes() for row in ROWS]


def test_a_bulk_file_of_milvus_needs_no_options(client: Client, run: Any, tmp_path: Path, name: str) -> None:
    codes = pa.array(ROWS.tolist(), pa.list_(pa.uint8()))
    parquet.write_table(pa.table({"id": range(12), "binary_vector": codes}), tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", collection=name)
    found = client.get([str(number) for number in range(12)], collection=name)
    assert [record.code for record in found] == [row.tobytes() for row in ROWS]


def test_a_file_of_imagededup_needs_only_the_kind(client: Client, run: Any, tmp_path: Path, name: str) -> None:
    codes = {key: row.tobytes().hex() for key, row in zip(KEYS, ROWS, strict=True)}
    (tmp_path / "hashes.json").write_text(json.dumps(codes))
    run(tmp_path / "hashes.json", collection=name, code_kind="imagededup-phash")
    assert client.get_collection(name).code_space == CodeSpace.of_kind("imagededup-phash")
    assert [record.code for record in client.get(KEYS, collection=name)] == [row.tobytes() for row in ROWS]


def test_a_missing_hash_in_a_column_is_a_dead_letter(client: Client, run: Any, tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{"key": "none", "phash": None}]
    rows += [{"key": key, "phash": row.tobytes().hex()} for key, row in zip(KEYS, ROWS, strict=True)]
    summary, dead = run(write_lines(tmp_path / "p.jsonl", rows), collection=name)
    assert (summary["stored"], [letter["key"] for letter in dead]) == (12, ["none"])
    assert client.get_collection(name).code_space == CodeSpace.of_kind("phash", 64)


def test_digits_in_csv_stay_text(client: Client, run: Any, tmp_path: Path, name: str) -> None:
    """As numbers they would be a decimal number and infinity."""
    codes = ["1234567890123456", "12345678e1234567", *(row.tobytes().hex() for row in ROWS)]
    (tmp_path / "h.csv").write_text("file;phash\n" + "".join(f"{n}.jpg;{code}\n" for n, code in enumerate(codes)))
    run(tmp_path / "h.csv", collection=name, columns="key=file")
    found = client.get([f"{n}.jpg" for n in range(14)], collection=name)
    assert [record.code for record in found] == [bytes.fromhex(code) for code in codes]


def test_null_rows_of_a_fixed_size_list_shift_no_code(client: Client, run: Any, tmp_path: Path, name: str) -> None:
    values = [row.tolist() for row in ROWS]
    values[3] = None  # type: ignore[call-overload]
    summary, dead = run(write_parquet(tmp_path, pa.array(values, pa.list_(pa.uint8(), 8))), collection=name)
    assert (summary["stored"], [letter["key"] for letter in dead]) == (11, ["k3"])
    kept = KEYS[:3] + KEYS[4:]
    assert [record.code for record in client.get(kept, collection=name)] == [
        row.tobytes() for number, row in enumerate(ROWS) if number != 3
    ]


@pytest.mark.parametrize("write", [write_json_lines, write_parquet])
@pytest.mark.parametrize("form", ["text", "list"])
def test_zeros_and_ones_never_make_a_collection_of_the_wrong_width(
    client: Client, run: Any, tmp_path: Path, name: str, write: Callable[[Path, Any], Path], form: str
) -> None:
    bits = np.unpackbits(ROWS, axis=1)
    codes = bits.tolist() if form == "list" else ["".join(map(str, row)) for row in bits]
    path = write(tmp_path, codes)
    with pytest.raises(InvalidRequest, match=r"column 'code' is ambiguous: .*\(64 bits\) or .*--code-format"):
        run(path, collection=name)
    with pytest.raises(NotFound):
        client.get_collection(name)
    # One error for the table, not one for each row.
    assert (tmp_path / "dead.jsonl").read_text() == ""
    run(path, collection=name, code_format="bits" if form == "list" else "bit-text")
    assert client.get_collection(name).code_space == CodeSpace(64)
    # The collection's width says the rest.
    run(path, collection=name)
    assert [record.code for record in client.get(KEYS, collection=name)] == [row.tobytes() for row in ROWS]


def test_the_format_of_a_table_is_that_of_most_of_its_rows(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    codes = [row.tobytes().hex() for row in ROWS[:10]]
    summary, dead = run(write_json_lines(tmp_path, [*codes, "zz", "00ff0"]), collection=name)
    assert summary["stored"] == 10
    assert [letter["reason"] for letter in dead] == [
        "code: not hexadecimal; write two digits per byte",
        "code: 5 hexadecimal digits; they do not make whole bytes",
    ]


def test_another_kind_of_the_same_width_is_refused_with_both_names(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    codes = [row.tobytes().hex() for row in ROWS]
    rows = [{"key": key, "phash": code} for key, code in zip(KEYS, codes, strict=True)]
    phash = write_lines(tmp_path / "p.jsonl", rows)
    dhash = write_lines(tmp_path / "d.jsonl", [{"key": row["key"], "dhash": row["phash"]} for row in rows])
    run(phash, collection=name)
    assert client.get_collection(name).code_space == CodeSpace.of_kind("phash", 64)
    with pytest.raises(CodeSpaceMismatch, match=r"holds phash codes .* are dhash codes"):
        run(dhash, collection=name)
    with pytest.raises(CodeSpaceMismatch, match="are opencv-phash codes"):
        run(phash, collection=name, code_kind="opencv-phash")
    with pytest.raises(CodeSpaceMismatch, match=r"several kinds \(dhash, phash\)"):
        run(phash, dhash, collection=name)
    with pytest.raises(InvalidRequest, match="code_kind: unknown value 'md5'; use one of pdq, "):
        run(phash, collection=name, code_kind="md5")


def test_a_collection_without_a_kind_takes_codes_of_a_guessed_kind_only(
    client: Client, collection: str, run: Any, tmp_path: Path
) -> None:
    rows = [{"key": key, "phash": row.tobytes().hex()} for key, row in zip(KEYS, ROWS, strict=True)]
    path = write_lines(tmp_path / "p.jsonl", rows)
    assert run(path, collection=collection)[0]["stored"] == 12
    with pytest.raises(CodeSpaceMismatch, match=r"holds codes of no known kind .* are phash codes"):
        run(path, collection=collection, code_kind="phash")


def test_codes_of_another_width_than_their_kind_make_no_collection(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    rows = [{"key": key, "pdq": row.tobytes().hex()} for key, row in zip(KEYS, ROWS, strict=True)]
    with pytest.raises(InvalidRequest, match="bits: 64 is not the width of pdq codes; they have 256"):
        run(write_lines(tmp_path / "p.jsonl", rows), collection=name)


@pytest.mark.parametrize("tool", ["SDK", "command line"])
def test_collections_can_be_created_for_a_kind(
    client: Client, cluster: Cluster, run: Any, tmp_path: Path, name: str, tool: str
) -> None:
    if tool == "SDK":
        client.create_collection(name, code_space=CodeSpace.of_kind("pdq"))
    else:
        create(name, code_kind="pdq", server=cluster.address)
    summary, _ = run(write_json_lines(tmp_path, BITS.tolist()), collection=name, code_kind="pdq")
    assert summary["stored"] == 12


def test_a_refusal_names_the_cause_and_not_the_codes_width(run: Any, tmp_path: Path, name: str) -> None:
    """A row with sound codes may be invalid for another reason."""
    rows = [{"key": key, "code": "a7" * 8, "thumbnail": "text"} for key in KEYS]
    with pytest.raises(NotFound, match=r"no record can be stored: 12 of 12.*thumbnail: str.*dead\.jsonl"):
        run(write_lines(tmp_path / "p.jsonl", rows), collection=name)


def test_numpy_codes_with_keys_and_features_are_stored(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    np.save(tmp_path / "codes.npy", ROWS)
    (tmp_path / "keys.txt").write_text("\n".join(KEYS))
    summary, _ = run(tmp_path / "codes.npy", collection=name, keys=str(tmp_path / "keys.txt"), limit=5)
    assert summary["stored"] == 5
    summary, _ = run(tmp_path / "codes.npy", collection=name, keys=str(tmp_path / "keys.txt"))
    assert [record.code for record in client.get(KEYS, collection=name)] == [row.tobytes() for row in ROWS]
    # Vectors have no attributes, so a filter leaves all of them out.
    summary, _ = run(tmp_path / "codes.npy", collection=name, where='{"a": 1}')
    assert (summary["skipped"], summary["stored"]) == (12, 0)


def test_a_later_table_whose_format_is_ambiguous_is_one_clear_error(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    sound = write_lines(tmp_path / "a.jsonl", [{"key": "a", "code": "a7" * 32}])
    other = write_lines(tmp_path / "b.jsonl", [{"key": "b", "code": [1] * 32}])
    with pytest.raises(InvalidRequest, match="column 'code' is ambiguous"):
        run(sound, other, collection=name)


def test_an_export_is_never_ambiguous(
    client: Client, cluster: Cluster, run: Any, tmp_path: Path, name: str
) -> None:
    """Bytes of zeros and ones only could be bits if another tool had written them."""
    client.create_collection(name, code_space=CodeSpace.of_kind("phash", 256))
    client.upsert([Record("a", code=bytes(32)), Record("b", code=b"\1" * 32)], collection=name)
    export(str(tmp_path / "out.parquet"), name, server=cluster.address)
    summary, _ = run(tmp_path / "out.parquet", collection=f"{name}-copy")
    assert summary["stored"] == 2
    assert client.get_collection(f"{name}-copy").code_space == CodeSpace.of_kind("phash", 256)


def test_bytes_that_may_be_features_are_never_codes_in_silence(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.u8bin").write_bytes(np.array([12, 8], "<u4").tobytes() + ROWS.tobytes())
    with pytest.raises(InvalidRequest, match=r"packed codes \(64 bits\) or features; say --code-format packed"):
        run(tmp_path / "a.u8bin", collection=name)
    with pytest.raises(NotFound):
        client.get_collection(name)
    run(tmp_path / "a.u8bin", collection=name, code_format="packed")
    found = client.get([str(number) for number in range(12)], collection=name)
    assert [record.code for record in found] == [row.tobytes() for row in ROWS]
    assert run(tmp_path / "a.u8bin", collection=name)[0]["stored"] == 12


def test_float_vectors_are_hashed_with_the_hash_of_the_collection(
    client: Client, run: Any, tmp_path: Path, name: str
) -> None:
    hashing = drawn(16, 64, 3)
    space = CodeSpace(64, "some-net", "", "pooled", "", hashing.method, hashing.digest)
    client.create_collection(name, code_space=space, hash_file=hashing.to_bytes())
    vectors = RNG.standard_normal((1_500, 16)).astype(np.float32)
    np.save(tmp_path / "f.npy", vectors)
    assert run(tmp_path / "f.npy", collection=name)[0]["stored"] == 1_500
    found = client.get([str(number) for number in range(1_500)], collection=name)
    assert [record.code for record in found] == [code.tobytes() for code in hashing.codes(vectors)]
