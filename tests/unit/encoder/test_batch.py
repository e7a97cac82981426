"""The parts of a batch job: tables, rows, selection and rate."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from encoder.ingest.images import ReadOptions, absolute, read, row_url
from encoder.ingest.listing import split
from encoder.ingest.pipeline import _EncodeActor
from encoder.ingest.rate import SendRate
from encoder.ingest.rows import precomputed_of, source_of
from encoder.ingest.selection import Selection
from encoder.ingest.sources import Source
from encoder.ingest.tables.arrow_files import PARQUET
from encoder.ingest.tables.formats import find_tables, format_of
from encoder.ingest.tables.naming import Choice, Unreadable
from encoder.ingest.tables.table import Table
from encoder.spec import EncoderSpec
from lookalike import filters
from lookalike.model.errors import InvalidRequest
from tests.command import lookalike

TABLE = Table("file:///data/t.parquet", PARQUET, {}, "mark")


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("a/b.PARQUET", "parquet"), ("s3://x/y.pq", "parquet"), ("m.jsonl", "jsonl"), ("m.ndjson", "jsonl"),
        ("m.csv", "csv"), ("m.tsv", "csv"), ("instances.json", "json"), ("folder", "images"), ("a.jpg", "images"),
        ("https://host/m.csv?token=1.jpg", "csv"), ("dir/*.parquet", "parquet"),
        ("m.jsonl.gz", "jsonl"), ("codes-?.jsonl", "jsonl"), ("s3://x/why?/m.csv", "csv"),
    ],
)  # fmt: skip
def test_format_follows_the_paths_ending(path: str, format: str) -> None:
    assert format_of(path) == format


def test_other_columns_become_json_attributes() -> None:
    row = {
        "key": 17, "code": b"12345678", "version": 5, "n": 1, "none": None, "nan": math.nan, "ok": True,
        "day": datetime.date(2024, 2, 29), "price": decimal.Decimal("1.5"), "nested": {"a": [1, None]},
    }  # fmt: skip
    ready = precomputed_of(TABLE, 3, row)
    assert ready.key == "17"
    assert ready.fields == {"n": 1, "ok": True, "day": "2024-02-29", "price": 1.5, "nested": {"a": [1, None]}}
    with pytest.raises(InvalidRequest, match="column 'blob' holds bytes"):
        precomputed_of(TABLE, 0, {**row, "blob": b"x"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "code: missing"),
        ({"code": b"x"}, "key: missing"),
        ({"key": "", "code": b"x"}, "key: missing"),
        ({"key": True, "code": b"x"}, "key: is bool"),
        ({"key": "k", "code": 1.5}, "code: float is not accepted"),
        ({"key": "k", "code": [256]}, "not of bytes"),
        ({"key": "k", "features": "text"}, "not a list of numbers"),
        ({"key": "k", "features": [[1.0]]}, "not a list of numbers"),
        ({"key": "k", "features": [math.inf]}, "NaN or infinity"),
        ({"key": "k", "code": b"x", "attributes": "[]"}, "not an object"),
        ({"key": "k", "code": b"x", "thumbnail": b"GIF89a"}, "not JPEG, PNG or WebP"),
        ({"key": "k", "code": b"x", "thumbnail": "text"}, "thumbnail: str is not accepted"),
    ],
)
def test_invalid_row_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        precomputed_of(TABLE, 0, row)


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("a/b.jpg", "file:///data/a/b.jpg"),
        ("./b.jpg", "file:///data/b.jpg"),
        ("/abs/b.jpg", "file:///abs/b.jpg"),
        ("s3://bucket/b.jpg", "s3://bucket/b.jpg"),
    ],
)
def test_relative_uris_start_from_the_tables_folder(uri: str, url: str) -> None:
    assert absolute(uri, TABLE.folder) == url
    assert source_of(TABLE, 0, {"uri": uri}, TABLE.folder).key == uri


def test_a_signature_follows_uri_and_attributes() -> None:
    def signature(**row: object) -> str:
        return source_of(TABLE, 0, {"key": "k", **row}, TABLE.folder).signature

    assert signature(uri="a", n=1) == signature(uri="a", n=1)
    assert len({signature(uri="a", n=1), signature(uri="b", n=1), signature(uri="a", n=2)}) == 3


def test_an_image_in_a_row_is_read_from_its_group(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"image": [b"%d" % i for i in range(10)], "key": [str(i) for i in range(10)]})
    parquet.write_table(table, path, row_group_size=3)
    (found,) = find_tables(str(path), "parquet")
    assert found.image_column == "image"
    rows = [row for portion in found.batches() for row in portion]
    assert rows == [{"key": str(i)} for i in range(10)]
    assert [read(row_url(found.url, i), 100) for i in (9, 0, 5)] == [b"9", b"0", b"5"]
    with pytest.raises(ValueError, match="row 10 does not exist"):
        read(row_url(found.url, 10), 100)
    with pytest.raises(ValueError, match="over 0 bytes"):
        read(row_url(found.url, 1), 0)


def test_globs_and_folders_of_tables(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        (tmp_path / name).write_text('{"key": 1}\n')
    assert [table.url[-7:] for table in find_tables(f"{tmp_path}/*.jsonl", "jsonl")] == ["a.jsonl", "b.jsonl"]
    assert len(find_tables(str(tmp_path), "jsonl")) == 2
    with pytest.raises(InvalidRequest, match="does not exist"):
        find_tables(f"{tmp_path}/*.parquet", "parquet")
    with pytest.raises(InvalidRequest, match="does not exist"):
        find_tables(f"{tmp_path}/none.csv", "csv")
    (tmp_path / "of [2019].JSONL").write_text('{"key": 1}\n')
    assert len(find_tables(f"{tmp_path}/of [2019].JSONL", "jsonl")) == 1
    assert len(find_tables(str(tmp_path), "jsonl")) == 3


def test_error_names_the_unreadable_table_not_its_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.parquet").touch()
    with pytest.raises(InvalidRequest, match=r"empty.parquet cannot be read"):
        find_tables(str(tmp_path), "parquet")


def test_manifests_may_be_compressed(tmp_path: Path) -> None:
    for name, text in (("m.jsonl.gz", '{"key": "a"}\n'), ("m.tsv.gz", "key\tn\na\t1\n")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        (table,) = find_tables(str(tmp_path / name), format_of(name))
        ((row,),) = table.batches()
        assert isinstance(row, dict)
        assert row["key"] == "a"
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"0" * 100)[:-9])
    with pytest.raises(InvalidRequest, match=r"cut.jsonl.gz cannot be read"):
        find_tables(str(tmp_path / "cut.jsonl.gz"), "jsonl")


def test_delimiter_follows_the_files_ending_not_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "old.tsv.d"
    folder.mkdir()
    (folder / "m.csv").write_text("key,code\na,00\n")
    (table,) = find_tables(str(folder / "m.csv"), "csv")
    ((row,),) = table.batches()
    assert isinstance(row, dict)
    assert (row["key"], row["code"]) == ("a", "00")


def test_folder_with_a_question_mark_in_its_name_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "why?"
    folder.mkdir()
    (folder / "m.jsonl").write_text('{"key": "a", "code": "00"}\n')
    assert len(find_tables(str(folder), "jsonl")) == 1


def test_csv_rows_after_an_oversized_cell_are_read(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"key,uri,text\na,a.jpg,{'x' * 200_000}\nb,b.jpg,y\n")
    ((large, sound),) = find_tables(str(file), "csv")[0].batches()
    assert isinstance(large, dict)
    with pytest.raises(InvalidRequest, match="use at most 65,536"):
        source_of(TABLE, 0, large, "")
    assert sound == {"key": "b", "uri": "b.jpg", "text": "y"}


def test_invalid_csv_error_names_the_line_and_invalid_utf_8_only_its_row(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"key,name\na,caf\xe9\nb,x\n")
    ((odd, sound),) = find_tables(str(file), "csv")[0].batches()
    assert isinstance(odd, dict)
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        source_of(TABLE, 0, {**odd, "uri": "a.jpg"}, "")
    assert sound == {"key": "b", "name": "x"}
    file.write_text('key,name\na,x\nb,"x" y\n')
    with pytest.raises(InvalidRequest, match=r"t.csv cannot be read: line 3: ',' expected"):
        find_tables(str(file), "csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "not a COCO instances file"),
        ({"images": [], "annotations": []}, "not a COCO instances file .*'categories'"),
        ({"images": [], "annotations": [{"image_id": 1, "category_id": 9}], "categories": []}, "KeyError: 9"),
    ],
)
def test_invalid_coco_file_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InvalidRequest, match=reason):
        find_tables(str(tmp_path / "c.json"), "coco")


def test_coco_images_without_annotations_are_rows(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": []}')
    ((row,),) = find_tables(str(tmp_path / "c.json"), "coco")[0].batches()
    assert row == {"key": "a.jpg", "uri": "a.jpg", "labels": [], "boxes": 0, "coco_id": 1}


def test_coco_annotations_become_attributes_without_an_encoder_in_a_dry_run(tmp_path: Path) -> None:
    for folder in ("val2017", "annotations"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        Image.new("RGB", (9, 8)).save(tmp_path / "val2017" / f"{number}.jpg")
    content = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 9, "height": 8} for number in range(4)],
        "annotations": [
            {"image_id": 0, "category_id": 7, "segmentation": [[1.0]]},
            {"image_id": 0, "category_id": 7},
            {"image_id": 0, "category_id": 3},
            {"image_id": 2, "category_id": 3},
        ],
    }
    file, letters = tmp_path / "annotations" / "instances_val2017.json", tmp_path / "dead.jsonl"
    file.write_text(json.dumps(content))

    def tried(*options: object) -> dict[str, Any]:
        code, said, complaint = lookalike(
            "ingest", file, "--dead-letters", letters, "--dry-run", "--json", *options
        )
        summary: dict[str, Any] = json.loads(said)
        assert code == (0 if summary["encoded"] else 1), complaint
        return summary

    summary = tried()
    assert (summary["found"], summary["encoded"], summary["unreadable"]) == (4, 3, 1)
    summary = tried("--where", '{"labels": "dog"}')
    assert (summary["encoded"], summary["skipped"]) == (2, 2)
    tried("--where", '{"boxes": {"$gte": 3}}', "--images", tmp_path / "elsewhere")
    (letter,) = map(json.loads, letters.read_text().splitlines())
    assert letter["attributes"] == {"labels": ["cat", "dog"], "boxes": 3, "coco_id": 0, "width": 9, "height": 8}


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_thumbnails_are_made_only_if_requested(tmp_path: Path, is_asked_for: bool) -> None:
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "a.jpg")
    actor = _EncodeActor(
        EncoderSpec("tf_efficientnet_lite0", 64, 0), ReadOptions(10**6, 10**6), 1, False, is_asked_for
    )
    batch = {"url": [f"file://{tmp_path}/{name}.jpg" for name in ("a", "none")], "place": [0, 1]}
    made = actor(batch)
    assert [bool(thumbnail) for thumbnail in made["thumbnail"]] == [is_asked_for, False]
    assert [len(code) for code in made["code"]] == [8, 0]
    assert made["error"][1] == "cannot be read: No such file or directory"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of 108 megapixels, as phones write them."""
    path = tmp_path_factory.mktemp("large") / "phone.jpg"
    Image.new("RGB", (12_000, 9_000), "teal").save(path, quality=30)
    return path


def test_worker_decodes_up_to_its_limits(large: Path) -> None:
    batch = {"url": [large.as_uri()], "place": [0]}

    def made(max_bytes: int, max_pixels: int) -> dict[str, Any]:
        options = ReadOptions(max_bytes, max_pixels)
        return _EncodeActor(EncoderSpec("tf_efficientnet_lite0", 64, 0), options, 1, False, True)(batch)

    stored = made(10**7, 110_000_000)
    assert (len(stored["code"][0]), stored["error"][0]) == (8, "")
    assert stored["thumbnail"][0]
    assert "at most 100,000,000 are decoded (limits.max_image_megapixels)" in made(10**7, 10**8)["error"][0]
    assert "has over 1,000 bytes, the maximum (limits.max_image_mb)" in made(1_000, 10**9)["error"][0]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("{max_image_megapixels: 110}", None),
        ("{max_image_megapixels: 100}", "12,000 x 9,000 pixels; at most 100,000,000 are decoded"),
        ("{max_image_mb: 1, max_image_megapixels: 110}", "has over 1,048,576 bytes, the maximum"),
    ],
)
def test_limits_of_the_config_hold_in_a_dry_run(
    large: Path, tmp_path: Path, limit: str, reason: str | None
) -> None:
    (tmp_path / "config.yaml").write_text(f"partitions: 1\nlimits: {limit}\n")
    report = tmp_path / "dead.jsonl"
    code, said, complaint = lookalike(
        "ingest", large, "--config", tmp_path / "config.yaml", "--dry-run", "--report", report, "--json"
    )
    assert code == (0 if reason is None else 1), complaint
    assert json.loads(said)["encoded"] == (reason is None)
    letters = report.read_text()
    assert letters == "" if reason is None else reason in json.loads(letters)["reason"]


def test_table_without_a_usable_column_is_refused(tmp_path: Path) -> None:
    for text, reason in (
        ("key:code\na:00\n", "'key:code'. is code"),
        ("name,code\na,00\n", "is the key; name it"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InvalidRequest, match=reason):
            split([str(tmp_path / "t.csv")], None, Choice())


def test_csv_row_with_too_many_cells_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,n\na,1\nb,2,3\nc,1e3\nd,007\ne,nan\n")
    (table,) = find_tables(str(tmp_path / "t.csv"), "csv")
    (rows,) = table.batches()
    assert isinstance(rows[1], Unreadable)
    assert [row["n"] for row in rows if isinstance(row, dict)] == [1, 1000.0, "007", "nan"]


def test_selection_stops_reading_at_its_limit() -> None:
    seen = []

    def sources() -> Iterator[Source]:
        for i in range(100):
            seen.append(i)
            yield Source(str(i), "", {"i": i}, "")

    selection = Selection(filters.parse({"i": {"$gte": 10}}), 5)
    assert [source.key for source in selection.apply(sources())] == ["10", "11", "12", "13", "14"]
    assert (selection.skipped, seen[-1], selection.is_full) == (10, 14, True)
    assert list(selection.apply(sources())) == []


def test_token_bucket_limits_the_rate() -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    bucket = SendRate(10, lambda: now[0], sleep)
    bucket.take(10)
    assert slept == []
    for _ in range(20):
        bucket.take(5)
    assert now[0] == pytest.approx(10)
    now[0] += 100
    slept.clear()
    bucket.take(10)
    assert slept == []
    bucket.take(25)
    assert slept == [pytest.approx(2.5)]
    SendRate(None, lambda: 0.0, sleep).take(10**9)


def test_ingest_command_imports_neither_ray_nor_torch() -> None:
    """Precomputed codes need neither, and they take seconds to load."""
    text = "import sys, encoder.ingest.command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert not {"ray", "torch", "timm", "pandas", "PIL"} & set(loaded.split())


def test_default_workers_equal_the_usable_processors() -> None:
    """A machine may have more than a container may use."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from encoder.ingest.workers import workers_for; from lookalike.server.config import EncoderConfig;"
        "print(workers_for(EncoderConfig(), None).count)"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout == "1\n"
