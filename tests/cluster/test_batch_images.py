"""Batch jobs of images from tables, with the real encoder on Ray."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from encoder.ingest.rows import source_of
from encoder.ingest.tables.formats import find_tables
from lookalike import Client, Record
from lookalike.model.thumbnails import MAX_THUMBNAIL_BYTES, format_of
from tests.cluster.test_encoder import ingest
from tests.command import lookalike
from tests.conftest import Cluster
from tests.served import served


@pytest.fixture
def client(encoder_cluster: Cluster) -> Iterator[Client]:
    with encoder_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def images(photographs: Path) -> list[Path]:
    return sorted(photographs.rglob("*.jpg"))[:6]


@pytest.fixture
def web(photographs: Path) -> Iterator[str]:
    """The photographs over HTTP."""
    with served(photographs) as address:
        yield f"http://{address}"


def test_one_job_reads_images_from_every_kind_of_table(
    encoder_cluster: Cluster,
    ray: Mapping[str, str],
    client: Client,
    photographs: Path,
    images: list[Path],
    web: str,
    tmp_path: Path,
) -> None:
    """The same picture from each source must get the same code. One run, because Ray takes seconds to start."""
    data = [path.read_bytes() for path in images]
    rows = {"key": ["p0", "p1", "bad"], "image": [data[0], data[1], b"no image"], "size": [1, 2, 3]}
    parquet.write_table(pa.table(rows), tmp_path / "inside.parquet", row_group_size=2)
    hub = {"image": [{"bytes": data[0], "path": None}], "key": ["hub"]}
    parquet.write_table(pa.table(hub), tmp_path / "hub.parquet")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a b#1.jpg").write_bytes(data[0])
    lines = [
        {"key": "relative", "uri": "pictures/a b#1.jpg", "label": "cat"},
        {"uri": str(images[0])},
        {"key": "web", "uri": f"{web}/{images[0].relative_to(photographs)}"},
        {"key": "gone", "uri": f"{web}/none.jpg"},
        {"key": "left-out", "uri": "pictures/a b#1.jpg", "label": "dog"},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "year"], [images[0], 1999]])
    names = ("inside.parquet", "hub.parquet", "manifest.jsonl", "table.csv")
    tables = [*(tmp_path / name for name in names), "-c", "tables", "--where", '{"$not": {"label": "dog"}}']
    # The errors that a dry run finds, one of them fixed, and records that an earlier job has stored.
    report = tmp_path / "dead.jsonl"
    code, said, complaint = lookalike("ingest", *tables, "--report", report, "--dry-run", "--json")
    assert code == 0, complaint
    tried = json.loads(said)
    assert (tried["found"], tried["encoded"], tried["skipped"]) == (10, 6, 1)
    dead = letters(report)
    assert set(dead) == {"bad", "gone", str(images[0])}
    assert "occurs twice" in dead[str(images[0])]["reason"]
    dead["bad"]["uri"] = f"file://{images[2]}"
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(dead[key]) + "\n" for key in ("bad", "gone")))
    (inside,) = find_tables(str(tmp_path / "inside.parquet"), "parquet")
    stored = source_of(inside, 1, {"key": "p1", "size": 2}, inside.folder)
    client.create_collection("tables")
    client.upsert([Record("p1", code=bytes(32), attributes=stored.attributes)], collection="tables")

    summary = ingest(encoder_cluster, ray, report, tmp_path / "again.jsonl", *tables)
    assert (summary["found"], summary["stored"], summary["skipped"]) == (12, 6, 1)
    assert (summary["already_stored"], summary["unreadable"]) == (1, 4)
    assert set(letters(report)) == {"bad", "gone", str(images[0])}
    keys = ["p0", "hub", "relative", "web", str(images[0])]
    found = client.get([*keys, "bad", "p1"], collection="tables", include_thumbnails=True)
    assert len({record.code for record in found[:5]}) == 1
    assert found[5].code != found[0].code
    assert found[6].code == bytes(32)
    assert found[0].attributes["size"] == 1
    assert found[2].attributes["label"] == "cat"
    assert found[5].attributes["size"] == 3
    assert all(format_of(record.thumbnail) == "jpeg" for record in found[:6])
    assert all(len(record.thumbnail) <= MAX_THUMBNAIL_BYTES for record in found[:6])
    with Image.open(io.BytesIO(found[0].thumbnail)) as picture:
        assert max(picture.size) == 192


def letters(report: Path) -> dict[str, dict[str, object]]:
    """The dead letters by key."""
    return {letter["key"]: letter for letter in map(json.loads, report.read_text().splitlines())}
