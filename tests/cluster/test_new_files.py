"""A folder of new images against a collection: `dedup --against`, and `search` with several images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from encoder.file_facts import facts
from lookalike import Client, Record, StoredRecord
from tests.cluster.test_encoder import ingest
from tests.command import lookalike
from tests.conftest import Cluster

COLLECTION = "known-files"


@pytest.fixture
def client(encoder_cluster: Cluster) -> Iterator[Client]:
    with encoder_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def known(
    encoder_cluster: Cluster, ray: Mapping[str, str], photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder that an image job has stored: a view of each of four photographs, and one again."""
    folder = tmp_path_factory.mktemp("known")
    for group in sorted(photographs.iterdir())[:4]:
        shutil.copyfile(sorted(group.glob("*.jpg"))[0], folder / f"{group.name}.jpg")
    first = sorted(folder.glob("*.jpg"))[0]
    with Image.open(first) as image:
        image.resize((image.width // 2, image.height // 2)).save(folder / "again.png")
    assert ingest(encoder_cluster, ray, folder.parent / "r.jsonl", folder, "-c", COLLECTION)["stored"] == 5
    return folder


@pytest.fixture
def new(known: Path, photographs: Path, tmp_path: Path) -> Path:
    """A folder of new files: a copy, a version, another photograph, and what is no image."""
    folder = tmp_path / "new"
    (folder / "inner").mkdir(parents=True)
    first = sorted(known.glob("*.jpg"))[0]
    shutil.copyfile(first, folder / "copy.jpg")
    with Image.open(first) as image:
        image.save(folder / "inner" / "version.jpg", quality=90)
    shutil.copyfile(sorted(sorted(photographs.iterdir())[7].glob("*.jpg"))[0], folder / "other.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(cluster: Cluster, *arguments: object) -> str:
    code, said, complaint = lookalike(*arguments, "-c", COLLECTION, "--server", cluster.address)
    assert code == 0, complaint
    return said


def test_an_image_job_stores_facts_that_filters_find(client: Client, known: Path) -> None:
    """They are those of the file as it is read here."""
    records = client.get([path.name for path in known.iterdir()], collection=COLLECTION)
    assert len(records) == 5
    for record in records:
        expected = facts((known / record.key).read_bytes())
        source = record.attributes["source"]
        assert (source["width"], source["height"], source["bytes"], source["format"]) == (
            expected.width, expected.height, expected.bytes, expected.format,
        )  # fmt: skip
        assert (source["sha256"], source["phash"]) == (expected.sha256, expected.phash)
        assert source["url"] == f"file://{known / record.key}"
    small = facts((known / "again.png").read_bytes()).width
    result = client.search(key="again.png", filter={"source.width": {"$gt": small}}, collection=COLLECTION)
    assert "again.png" not in {hit.key for hit in result.hits}
    assert result.hits


def test_a_repeated_job_encodes_nothing_and_old_records_stay(
    encoder_cluster: Cluster, ray: Mapping[str, str], client: Client, known: Path, tmp_path: Path
) -> None:
    """A record of an earlier version has no facts, and is stored all the same."""
    (before,) = client.get(["again.png"], collection=COLLECTION)
    source = {name: before.attributes["source"][name] for name in ("url", "signature")}
    try:
        set_source(client, before, source)
        summary = ingest(encoder_cluster, ray, tmp_path / "r.jsonl", known, "-c", COLLECTION)
        assert (summary["already_stored"], summary["encoded"]) == (5, 0)
    finally:
        set_source(client, before, before.attributes["source"])


def set_source(client: Client, record: StoredRecord, source: Mapping[str, Any]) -> None:
    attributes = {**record.attributes, "source": source}
    client.upsert([Record(record.key, code=record.code, attributes=attributes)], collection=COLLECTION)


def test_new_files_are_compared_with_a_collection(
    encoder_cluster: Cluster, client: Client, known: Path, new: Path
) -> None:
    first = sorted(known.glob("*.jpg"))[0].name
    rows = client.get_collection(COLLECTION).rows
    found = json.loads(run(encoder_cluster, "dedup", new, "--against", "--max-distance", 24, "--json"))
    assert (found["files"], found["known"], found["known_exact"], found["unreadable"]) == (4, 2, 1, 1)
    assert found["skipped_by_reason"] == {"not an image": 1}
    answers = {Path(answer["file"]).name: answer for answer in found["found"]}
    best = answers["copy.jpg"]["duplicates"][0]
    assert best == {"key": first, "distance": 0, "exact": True}
    assert all(not hit["exact"] for hit in answers["copy.jpg"]["duplicates"][1:])
    version = answers["version.jpg"]["duplicates"]
    assert (version[0]["key"], version[0]["exact"]) == (first, False)
    assert answers["other.jpg"]["duplicates"] == []
    assert "not an image" in answers["broken.jpg"]["error"]
    said = run(encoder_cluster, "dedup", new, "--against", "--max-distance", 24)
    assert f'{json.dumps(str(new / "copy.jpg"))}  exact  "{first}"' in said
    assert "2 of 4 files have a near-duplicate within 24 bits in known-files, 1 of them a copy" in said
    assert client.get_collection(COLLECTION).rows == rows


def test_several_images_are_searched_for_at_once(encoder_cluster: Cluster, known: Path, new: Path) -> None:
    first = sorted(known.glob("*.jpg"))[0].name
    lines = run(encoder_cluster, "search", new, "--image", known / first, "-k", 2, "--json").splitlines()
    answers = [json.loads(line) for line in lines]
    names = [Path(answer["image"]).name for answer in answers]
    assert names == ["broken.jpg", "copy.jpg", "version.jpg", "other.jpg", first]
    assert "not an image" in answers[0]["error"]
    for answer in answers[1:]:
        alone = json.loads(run(encoder_cluster, "search", answer["image"], "-k", 2, "--json"))
        assert answer["hits"] == alone["hits"]
        assert answer["coverage"]["complete"]
    said = run(encoder_cluster, "search", known / first, new / "copy.jpg", "-k", 1)
    assert said.count(f"0 bits  1.0000  {first}") == 2
    assert said.splitlines()[0] == json.dumps(str(known / first))


def test_a_search_without_any_readable_image_fails(encoder_cluster: Cluster, new: Path, tmp_path: Path) -> None:
    def complaint(*arguments: object) -> str:
        code, _, said = lookalike(*arguments, "-c", COLLECTION, "--server", encoder_cluster.address)
        assert code == 1
        return said

    (tmp_path / "empty").mkdir()
    assert "empty holds no image (no file)" in complaint("search", tmp_path / "empty")
    assert "cannot be read (No such file or directory)" in complaint("search", tmp_path / "none", new)
    assert "none of 2 files" in complaint("search", new / "broken.jpg", new / "notes.txt")
    assert "add --together" in complaint("search", new, "--key", "a")
    assert "holds no image" in complaint("dedup", tmp_path / "empty", "--against")
