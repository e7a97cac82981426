"""Runs every command of docs/BRING.md on files that the tools themselves wrote, where they are light enough."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import h5py
import imagehash
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import webdataset
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PillowImage

from lookalike import Client
from lookalike.model.errors import NotFound
from tests import hashes_of_tools as tools
from tests.command import lookalike
from tests.conftest import Cluster

PAGE = (Path(__file__).parents[2] / "docs" / "BRING.md").read_text()
COMMANDS = re.findall(r"`(lookalike ingest [^`]+)`", PAGE)
RNG = np.random.default_rng(3)
N = 12
# By the command's path: how many pictures can be stored.
PICTURES = {
    "photos": 4, "objects": 3, "photos.zip": 3, "imagefolder": 3, "train.parquet": 3, "saved": 3, "shards": 4,
    "i2d-parquet/00000.parquet": 2, "i2d-webdataset": 2, "i2d-files": 2, "table.csv": 3, "table.json": 3,
    "coco/annotations/instances_val2017.json": 2, "coco/annotations/lvis_v1_val.json": 2,
}  # fmt: skip
# By the command's path: how many codes are stored, and their width in bits.
CODES = {
    "imagehash.csv": (3, 64), "imagededup.json": (3, 64), "pdq.jsonl": (N, 256), "binary.parquet": (N, 256),
    "pgvector.csv": (N, 64), "milvus.parquet": (N, 128), "index.faiss": (N, 128), "codes.npy": (N, 128),
    "hamming.hdf5": (N, 256), "base.u8bin": (N, 128),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A folder with what each row of the page names."""
    folder = tmp_path_factory.mktemp("bring")
    paths = sorted(photographs.rglob("*.jpg"))[:3]
    pictures(folder, paths)
    hugging_face(folder, paths)
    img2dataset(folder, paths)
    text_tables(folder, paths)
    coco(folder, paths)
    hashes(folder, paths)
    vectors(folder)
    return folder


def pictures(folder: Path, paths: list[Path]) -> None:
    for name in ("photos/camera", "photos/@eaDir", "objects/ab", "imagefolder"):
        (folder / name).mkdir(parents=True)
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / "photos" / "camera" / f"{number}.jpg")
        shutil.copyfile(path, folder / "objects" / "ab" / f"{number:040x}")
        shutil.copyfile(path, folder / "imagefolder" / f"{number}.jpg")
    shutil.copyfile(paths[0], folder / "photos" / "@eaDir" / "0.jpg")
    PillowImage.open(paths[0]).save(folder / "photos" / "phone.heic", "HEIF")
    (folder / "photos" / "notes.txt").write_text("none")
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos" / "camera")
    pd.DataFrame({"file_name": ["0.jpg", "1.jpg"], "text": ["a", "b"]}).to_csv(
        folder / "imagefolder" / "metadata.csv", index=False
    )


def hugging_face(folder: Path, paths: list[Path]) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    data = Dataset.from_dict({"image": list(map(str, paths)), "label": [0, 1, 0]}, features=features)
    data.to_parquet(str(folder / "train.parquet"))
    DatasetDict({"train": data}).save_to_disk(str(folder / "saved"))
    (folder / "shards").mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(folder / "shards" / f"{shard:06}.tar")) as writer:
            for number in range(2):
                image = paths[number].read_bytes()
                writer.write({"__key__": f"{shard}{number}", "jpg": image, "cls": number, "json": {"n": number}})


def img2dataset(folder: Path, paths: list[Path]) -> None:
    """The layouts of img2dataset 1.47, which needs a web server of images to write them itself."""
    keys = [f"{number:09}" for number in range(3)]
    data = {
        "url": [f"https://host/{key}.jpg" for key in keys], "key": keys, "caption": ["a", "b", "c"],
        "status": ["success", "success", "failed_to_download"], "error_message": [None, None, "timed out"],
    }  # fmt: skip
    images = [paths[0].read_bytes(), paths[1].read_bytes(), None]
    for name in ("i2d-parquet", "i2d-webdataset", "i2d-files/00000"):
        (folder / name).mkdir(parents=True)
    parquet.write_table(
        pa.table({**data, "jpg": pa.array(images, pa.binary())}), folder / "i2d-parquet" / "00000.parquet"
    )
    for name in ("i2d-webdataset", "i2d-files"):
        parquet.write_table(pa.table(data), folder / name / "00000.parquet")
        (folder / name / "00000_stats.json").write_text("{}")
    with webdataset.TarWriter(str(folder / "i2d-webdataset" / "00000.tar")) as writer:
        for key, image in zip(keys[:2], images, strict=False):
            writer.write({"__key__": key, "jpg": image, "txt": "a", "json": {"key": key, "width": 9}})
    for key, image in zip(keys[:2], images, strict=False):
        assert image is not None
        (folder / "i2d-files" / "00000" / f"{key}.jpg").write_bytes(image)
        (folder / "i2d-files" / "00000" / f"{key}.txt").write_text("a")
        (folder / "i2d-files" / "00000" / f"{key}.json").write_text(json.dumps({"key": key, "width": 9}))


def text_tables(folder: Path, paths: list[Path]) -> None:
    frame = pd.DataFrame({"path": [f"imagefolder/{number}.jpg" for number in range(3)], "year": [1, 2, 3]})
    frame.to_csv(folder / "table.csv", sep=";")
    frame.to_json(folder / "table.json", orient="records")


def coco(folder: Path, paths: list[Path]) -> None:
    for name in ("annotations", "val2017"):
        (folder / "coco" / name).mkdir(parents=True)
    for number in range(2):
        shutil.copyfile(paths[number], folder / "coco" / "val2017" / f"{number:012}.jpg")
    categories = [{"id": 1, "name": "cat"}]
    annotations = [{"image_id": 0, "category_id": 1}]
    images = [{"id": number, "file_name": f"{number:012}.jpg"} for number in range(2)]
    addresses = [
        {"id": number, "coco_url": f"http://images.cocodataset.org/val2017/{number:012}.jpg"}
        for number in range(2)
    ]
    for name, listed in (("instances_val2017", images), ("lvis_v1_val", addresses)):
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (folder / "coco" / "annotations" / f"{name}.json").write_text(json.dumps(content))


def hashes(folder: Path, paths: list[Path]) -> None:
    made = [str(imagehash.phash(PillowImage.open(path))) for path in paths]
    pd.DataFrame({"id": [path.name for path in paths], "phash": made}).to_csv(folder / "imagehash.csv")
    (folder / "imagededup.json").write_text(
        json.dumps({path.name: text for path, text in zip(paths, made, strict=True)})
    )
    lines = [{"key": f"k{number}", "pdq": text, "quality": 100} for number, text in enumerate(tools.PDQ)]
    pd.DataFrame(lines).to_json(folder / "pdq.jsonl", orient="records", lines=True)
    rows = RNG.integers(0, 256, (N, 32), np.uint8)
    keys = [f"k{number}" for number in range(N)]
    signed = (rows.astype(np.int16) - 128).astype(np.int8)
    parquet.write_table(
        pa.table({"id": keys, "binary": pa.array(signed.tolist(), pa.list_(pa.int8()))}), folder / "binary.parquet"
    )
    bits = ["".join(map(str, row)) for row in np.unpackbits(rows[:, :8], axis=1)]
    pd.DataFrame({"id": range(N), "embedding": bits}).to_csv(folder / "pgvector.csv", index=False)
    parquet.write_table(
        pa.table({"id": range(N), "vector": pa.array(rows[:, :16].tolist(), pa.list_(pa.uint8()))}),
        folder / "milvus.parquet",
    )


def vectors(folder: Path) -> None:
    rows = RNG.integers(0, 256, (N, 16), np.uint8)
    index = faiss.IndexBinaryFlat(128)
    index.add(rows)
    faiss.write_index_binary(index, str(folder / "index.faiss"))
    np.save(folder / "codes.npy", rows)
    (folder / "keys.txt").write_text("".join(f"key {number}\n" for number in range(N)))
    with h5py.File(folder / "hamming.hdf5", "w") as file:
        file.attrs["distance"] = "hamming"
        file["train"] = RNG.integers(0, 2, (N, 256)).astype(np.bool_)
    (folder / "base.u8bin").write_bytes(np.array(rows.shape, np.uint32).tobytes() + rows.tobytes())


@pytest.fixture
def server(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[str]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOOKALIKE_SERVER", cluster.address)
    return cluster.address


def test_the_page_has_a_command_for_each_file() -> None:
    assert sorted(shlex.split(command)[2] for command in COMMANDS) == sorted([*PICTURES, *CODES])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", [c for c in COMMANDS if shlex.split(c)[2] in PICTURES])
def test_pictures_can_be_stored(server: str, tmp_path: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    code, said, complaint = lookalike(*arguments, "--dry-run", "--json", "--report", tmp_path / "dead.jsonl")
    assert code == 0, complaint
    summary: dict[str, Any] = json.loads(said)
    assert (program, summary["encoded"]) == ("lookalike", PICTURES[arguments[1]]), summary
    assert summary["found"] == summary["encoded"] + summary["unreadable"] + summary["skipped"]
    assert summary["unreadable"] == (1 if "i2d-parquet" in command else 0)


@pytest.mark.parametrize("command", [c for c in COMMANDS if shlex.split(c)[2] in CODES])
def test_codes_are_stored_and_found(server: str, client: Client, tmp_path: Path, command: str) -> None:
    _, *arguments = shlex.split(command)
    name = arguments[arguments.index("-c") + 1]
    try:
        client.drop_collection(name)
    except NotFound:
        assert name
    code, said, complaint = lookalike(*arguments, "--json", "--report", tmp_path / "dead.jsonl")
    assert code == 0, complaint
    count, bits = CODES[arguments[1]]
    assert json.loads(said)["stored"] == count
    found = client.get_collection(name)
    assert (found.rows, found.code_space.bits) == (count, bits)
    client.drop_collection(name)
