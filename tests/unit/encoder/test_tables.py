"""Tables as other tools write them: each is read with the key, the image, the class names and the attributes that
its users expect."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import webdataset
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.images import read
from encoder.ingest.listing import list_images, split
from encoder.ingest.selection import Selection
from encoder.ingest.sources import Source
from encoder.ingest.stats import Summary
from encoder.ingest.tables.naming import Choice, choose
from encoder.ingest.tables.table import Table
from lookalike.model.errors import InvalidRequest

MAX_BYTES = 1_000_000


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    PillowImage.new("L", (8, 8), shade).save(file, "JPEG")
    return file.getvalue()


def images_of(*paths: Path, choice: Choice | None = None, base: str | None = None) -> tuple[list[Source], Summary]:
    """The images at these paths, and the counts."""
    files, tables = split([str(path) for path in paths], None, choice or Choice())
    summary = Summary()
    with DeadLetters(paths[0].parent / "dead.jsonl") as letters:
        return list_images(files, tables, base, Selection(), letters, summary), summary


def shades(sources: list[Source]) -> list[int]:
    return [PillowImage.open(io.BytesIO(read(source.url, MAX_BYTES))).getpixel((4, 4)) for source in sources]  # type: ignore[misc]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    folder = tmp_path / "files"
    folder.mkdir()
    for shade in (10, 20, 30):
        (folder / f"{shade}.jpg").write_bytes(jpeg(shade))
    return sorted(str(path) for path in folder.iterdir())


def hugging_face(files: list[str]) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "n": Value("int32")})
    return Dataset.from_dict({"image": files, "label": [1, 0, -1], "n": [1, 2, 3]}, features=features)


def test_parquet_of_hugging_face_has_keys_from_paths_and_class_names(tmp_path: Path, files: list[str]) -> None:
    hugging_face(files).to_parquet(str(tmp_path / "train.parquet"))
    sources, summary = images_of(tmp_path / "train.parquet")
    assert [source.key.rpartition("/")[2] for source in sources] == ["10.jpg", "20.jpg", "30.jpg"]
    assert [dict(source.fields) for source in sources] == [
        {"label": "dog", "n": 1},
        {"label": "cat", "n": 2},
        {"n": 3},
    ]
    assert shades(sources) == [10, 20, 30]
    assert (summary.found, summary.unreadable) == (3, 0)


def test_parquet_of_hugging_face_whose_images_are_files(tmp_path: Path, files: list[str]) -> None:
    """`datasets` writes paths without bytes if it is told not to embed the files."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": None, "path": "files/10.jpg"}, {"bytes": jpeg(40), "path": None}]
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "t.parquet")
    sources, _ = images_of(tmp_path / "t.parquet")
    assert [source.key for source in sources] == ["files/10.jpg", "t.parquet/1"]
    assert shades(sources) == [10, 40]


def test_paths_in_a_parquet_file_start_from_the_folder_that_the_user_names(
    tmp_path: Path, files: list[str]
) -> None:
    """`to_parquet` writes the paths of pictures that are files as they were given (findings/)."""
    folder = Path(files[0]).parent
    with contextlib.chdir(folder):
        hugging_face(["10.jpg", "20.jpg", "30.jpg"]).to_parquet(str(tmp_path / "train.parquet"))
    sources, _ = images_of(tmp_path / "train.parquet", base=str(folder))
    assert [source.key for source in sources] == ["10.jpg", "20.jpg", "30.jpg"]
    assert shades(sources) == [10, 20, 30]


def test_data_set_that_was_saved_to_disk(tmp_path: Path, files: list[str]) -> None:
    data = hugging_face(files)
    DatasetDict({"train": data.select([0, 1]), "test": data.select([2])}).save_to_disk(str(tmp_path / "saved"))
    sources, _ = images_of(tmp_path / "saved")
    assert sorted(shades(sources)) == [10, 20, 30]
    assert {source.fields.get("label") for source in sources} == {"dog", "cat", None}
    data.save_to_disk(str(tmp_path / "one"))
    assert len(images_of(tmp_path / "one")[0]) == 3


def test_web_dataset_samples_take_attributes_from_the_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "wds").mkdir()
    with webdataset.TarWriter(str(tmp_path / "wds" / "00000.tar")) as writer:
        for number in range(3):
            writer.write(
                {
                    "__key__": f"sample{number}", "jpg": jpeg(10 * number), "cls": number,
                    "json": {"url": f"https://host/{number}", "width": 8, "none": None},
                    "txt": f"caption {number}",
                }
            )  # fmt: skip
    sources, summary = images_of(tmp_path / "wds")
    assert [source.key for source in sources] == ["sample0", "sample1", "sample2"]
    assert dict(sources[2].fields) == {"cls": 2, "url": "https://host/2", "width": 8, "txt": "caption 2"}
    assert shades(sources) == [0, 10, 20]
    assert (summary.found, summary.unreadable, summary.skipped) == (3, 0, 0)


def img2dataset_rows() -> dict[str, list[Any]]:
    return {
        "url": ["https://host/0.jpg", "https://host/1.jpg"], "key": ["000000000", "000000001"],
        "status": ["success", "failed_to_download"], "error_message": [None, "HTTP Error 404: Not Found"],
        "caption": ["a cat", "a dog"], "width": [8, None], "height": [8, None], "sha256": ["ab", None],
        "exif": ["{}", None],
    }  # fmt: skip


def test_parquet_of_img2dataset_names_the_rows_that_were_not_downloaded(tmp_path: Path) -> None:
    """Columns as img2dataset 1.47 writes them with output_format=parquet."""
    table = pa.table({**img2dataset_rows(), "jpg": pa.array([jpeg(50), None], pa.binary())})
    parquet.write_table(table, tmp_path / "00000.parquet")
    sources, summary = images_of(tmp_path / "00000.parquet")
    assert [source.key for source in sources] == ["000000000"]
    assert shades(sources) == [50]
    assert sources[0].fields["caption"] == "a cat"
    assert (summary.found, summary.unreadable) == (2, 1)
    (letter,) = map(json.loads, (tmp_path / "dead.jsonl").read_text().splitlines())
    assert letter["reason"] == "image: missing; status is failed_to_download (HTTP Error 404: Not Found)"


def test_tars_of_img2dataset_take_precedence_over_the_tables_beside_them(tmp_path: Path) -> None:
    """With output_format=webdataset, img2dataset writes 00000.tar, 00000.parquet and 00000_stats.json."""
    folder = tmp_path / "out"
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "00000.tar")) as writer:
        writer.write({"__key__": "000000000", "jpg": jpeg(50), "txt": "a cat", "json": {"key": "000000000"}})
    parquet.write_table(pa.table(img2dataset_rows()), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")
    sources, _ = images_of(folder)
    assert [(source.key, dict(source.fields)) for source in sources] == [("000000000", {"txt": "a cat"})]


@pytest.mark.parametrize("format", ["tar", "zip"])
def test_archive_of_images_is_as_a_folder(tmp_path: Path, format: str, files: list[str]) -> None:
    shutil.copytree(tmp_path / "files", tmp_path / "in" / "cats")
    (tmp_path / "in" / "notes.txt").write_text("none")
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "._10.jpg").write_bytes(b"resource fork")
    path = Path(shutil.make_archive(str(tmp_path / "photos"), format, tmp_path / "in"))
    sources, summary = images_of(path)
    assert sorted(source.key for source in sources) == ["cats/10.jpg", "cats/20.jpg", "cats/30.jpg"]
    assert {source.fields["label"] for source in sources} == {"cats"}
    assert sorted(shades(sources)) == [10, 20, 30]
    assert summary.found == 5
    assert summary.skipped_by_reason == {"not an image": 1, "in a thumbnail folder (__MACOSX)": 1}


def test_compressed_tar_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(InvalidRequest, match=r"a\.tar\.gz is compressed.*decompress it"):
        split([str(tmp_path / "a.tar.gz")], None, Choice())


def test_archives_are_known_by_their_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.json", "w") as archive:
        archive.writestr("a.jpg", jpeg(10))
    sources, _ = images_of(tmp_path / "in.json")
    assert shades(sources) == [10]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_image_folder_takes_attributes_from_its_table(tmp_path: Path, files: list[str], format: str) -> None:
    """As `datasets` reads an image folder: a table `metadata` with the column file_name."""
    frame = pd.DataFrame({"file_name": ["10.jpg", "30.jpg"], "text": ["a cat", "a dog"], "n": [1, 2]})
    path = Path(files[0]).parent / f"metadata.{format}"
    if format == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        getattr(frame, f"to_{format}")(path, index=False)
    sources, _ = images_of(path.parent)
    assert [(source.key, dict(source.fields)) for source in sources] == [
        ("10.jpg", {"text": "a cat", "n": 1}), ("20.jpg", {}), ("30.jpg", {"text": "a dog", "n": 2}),
    ]  # fmt: skip
    described, bare, _ = (source.signature for source in sources)
    assert "+" in described
    assert "+" not in bare


def test_folder_of_img2dataset_takes_attributes_from_the_files_beside_images(tmp_path: Path) -> None:
    """With output_format=files, img2dataset writes 00000/000000000.jpg, .json and .txt."""
    folder = tmp_path / "out" / "00000"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number:09}.jpg").write_bytes(jpeg(number))
        (folder / f"{number:09}.txt").write_text(f"caption {number}\n")
        (folder / f"{number:09}.json").write_text(json.dumps({"key": f"{number:09}", "width": 8, "exif": None}))
    (folder / "000000001.json").write_text("{")
    sources, summary = images_of(tmp_path / "out")
    assert [(source.key, dict(source.fields)) for source in sources] == [
        ("00000/000000000.jpg", {"label": "00000", "txt": "caption 0", "width": 8}),
        ("00000/000000002.jpg", {"label": "00000", "txt": "caption 2", "width": 8}),
    ]
    assert (summary.found, summary.unreadable, summary.skipped) == (9, 1, 6)
    assert "the text beside it is invalid" in (tmp_path / "dead.jsonl").read_text()


def only_table(path: Path, choice: Choice | None = None) -> Table:
    _, (table,) = split([str(path)], None, choice or Choice())
    return table


def rows_of(table: Table) -> list[Any]:
    return [row for batch in table.batches() for row in batch]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_of_pandas_with_its_index(tmp_path: Path, separator: str) -> None:
    frame = pd.DataFrame({"file_name": ["a.jpg", "b,c.jpg"], "year": [2020, 2021]})
    frame.to_csv(tmp_path / "t.csv", sep=separator)
    table = only_table(tmp_path / "t.csv")
    assert rows_of(table) == [{"uri": "a.jpg", "year": 2020}, {"uri": "b,c.jpg", "year": 2021}]
    assert table.naming.remarks == (
        "column '' is left out: it numbers the rows",
        "using column 'file_name' as the image's path",
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("path;größe\r\na.jpg;3\r\n".encode(encoding))
    assert rows_of(only_table(tmp_path / "t.csv")) == [{"uri": "a.jpg", "größe": 3}]


def test_json_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "year": [2020, 2021]})
    frame.to_json(tmp_path / "t.json", orient="records")
    frame.to_json(tmp_path / "lines.json", orient="records", lines=True)
    frame.to_json(tmp_path / "columns.json")
    expected = [{"uri": "a.jpg", "year": 2020}, {"uri": "b.jpg", "year": 2021}]
    assert rows_of(only_table(tmp_path / "t.json")) == expected
    assert rows_of(only_table(tmp_path / "lines.json")) == expected
    with pytest.raises(InvalidRequest, match="orient='records'"):
        only_table(tmp_path / "columns.json")


def test_codes_by_key_as_imagededup_writes_them(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a.jpg": "9fee256239984d71", "b.jpg": "2b69707551f1b87a"}')
    assert rows_of(only_table(tmp_path / "t.json"))[0] == {"key": "a.jpg", "code": "9fee256239984d71"}


def test_lvis_names_images_by_their_address(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 397133, "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"}],
        "annotations": [{"image_id": 397133, "category_id": 1}],
        "categories": [{"id": 1, "name": "aerosol_can", "synset": "aerosol.n.02"}],
    }
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(content))
    (source,), _ = images_of(tmp_path / "lvis_v1_val.json")
    assert (source.key, source.url) == ("val2017/000000397133.jpg", content["images"][0]["coco_url"])
    assert source.fields["labels"] == ["aerosol_can"]
    (source,), _ = images_of(tmp_path / "lvis_v1_val.json", base=str(tmp_path / "coco"))
    assert source.url == f"file://{tmp_path}/coco/val2017/000000397133.jpg"


def test_columns_without_a_json_form_are_left_out_once(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a"], "phash": [b"12345678"], "raw": [b"x"], "emb": [[0.5] * 512], "box": [[0.5] * 4],
            "took": pa.array([1_500], pa.duration("ms")), "price": pa.array([2], pa.decimal128(4, 2)),
            "at": pa.array([0], pa.timestamp("s", "UTC")), "u": pa.array([b"\1" * 16], pa.uuid()),
            "deep": pa.array([{"bytes": b"x"}]),
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "t.parquet")
    found = only_table(tmp_path / "t.parquet", Choice.parse("", "price"))
    assert set(found.naming.remarks) == {
        "using column 'phash' as the code", "using column 'id' as the key",
        "column 'raw' is left out: it holds bytes",
        "column 'deep' is left out: JSON has no form for its values",
        "column 'emb' is left out: it holds long lists of numbers; name features with --columns features=COLUMN",
    }  # fmt: skip


def test_columns_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,phash\na,00ff\n")
    for option in (Choice.parse("key=name", ""), Choice.parse("", "name")):
        with pytest.raises(InvalidRequest, match=r"no column 'name'; the columns are 'id', 'phash'"):
            only_table(tmp_path / "t.csv", option)
    for text in ("key", "key=", "name=id", "key=a,key=b"):
        with pytest.raises(InvalidRequest, match=r"^columns: "):
            Choice.parse(text, "")


def test_the_users_names_win_over_guesses() -> None:
    kinds: Any = {"key": "text", "id": "text", "image": "text", "phash": "text", "url": "text"}
    naming = choose(kinds, Choice.parse("key=id,code=phash", "image"))
    assert naming.roles == {"key": "id", "code": "phash"}
    assert naming.left_out == {"image", "key"}
    assert naming.applied({"key": "k", "id": "i", "image": "x", "phash": "00", "url": "u"}) == {
        "key": "i", "code": "00", "url": "u",
    }  # fmt: skip


def test_numbers_of_classes_outside_the_names_are_missing() -> None:
    naming = choose({"label": "number", "uri": "text"}, Choice(), {"label": ["cat", "dog"]})
    assert [naming.applied({"label": value}) for value in (0, 1, 2, -1, None)] == [
        {"label": "cat"}, {"label": "dog"}, {"label": None}, {"label": None}, {"label": None},
    ]  # fmt: skip


def test_arrow_file_as_feather_writes_it(tmp_path: Path) -> None:
    import pyarrow.feather

    codes = pa.array([b"12345678", b"abcdefgh"], pa.binary(8))
    pyarrow.feather.write_feather(
        pa.table({"key": ["a", "b"], "code": codes, "n": np.arange(2)}), tmp_path / "t.feather"
    )
    assert rows_of(only_table(tmp_path / "t.feather")) == [
        {"key": "a", "code": b"12345678", "n": 0}, {"key": "b", "code": b"abcdefgh", "n": 1},
    ]  # fmt: skip
