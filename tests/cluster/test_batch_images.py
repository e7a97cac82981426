"""Batch jobs of images from tables, through a cluster with the real encoder on Ray."""

from __future__ import annotations

import csv
import http.server
import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from lookalike import Client
from lookalike.thumbnails import MAX_THUMBNAIL_BYTES, format_of
from tests.cluster.test_encoder import ingest
from tests.conftest import Cluster


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
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(photographs))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_one_job_takes_images_from_every_kind_of_table(
    encoder_cluster: Cluster, client: Client, photographs: Path, images: list[Path], web: str, tmp_path: Path
) -> None:
    """One run, for Ray takes seconds to start: the same picture from each source must get the same code."""
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
    report = tmp_path / "dead.jsonl"
    summary = ingest(
        encoder_cluster, report, tmp_path / "inside.parquet", tmp_path / "hub.parquet", tmp_path /
        "manifest.jsonl", tmp_path / "table.csv", "-c", "tables", "--where", '{"$not": {"label": "dog"}}',
    )  # fmt: skip
    assert (summary["found"], summary["stored"], summary["skipped"]) == (10, 6, 1)
    dead = {letter["key"]: letter for letter in map(json.loads, report.read_text().splitlines())}
    assert set(dead) == {"bad", "gone", str(images[0])}
    assert "occurs twice" in dead[str(images[0])]["reason"]
    keys = ["p0", "hub", "relative", "web", str(images[0])]
    found = client.get([*keys, "p1"], collection="tables", include_thumbnails=True)
    assert len({record.code for record in found[:5]}) == 1
    assert found[5].code != found[0].code
    assert found[0].attributes["size"] == 1
    assert found[2].attributes["label"] == "cat"
    assert all(format_of(record.thumbnail) == "jpeg" for record in found)
    assert all(len(record.thumbnail) <= MAX_THUMBNAIL_BYTES for record in found)
    with Image.open(io.BytesIO(found[0].thumbnail)) as picture:
        assert max(picture.size) == 192
    # Run again from its own dead letters, one of them mended.
    dead["bad"]["uri"] = f"file://{images[2]}"
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(dead[key]) + "\n" for key in ("bad", "gone")))
    summary = ingest(
        encoder_cluster, tmp_path / "r", tmp_path / "again.jsonl", tmp_path / "inside.parquet", "-c", "tables",
        "--no-thumbnails",
    )  # fmt: skip
    assert (summary["stored"], summary["already_stored"]) == (1, 2)
    (record,) = client.get(["bad"], collection="tables", include_thumbnails=True)
    assert (record.attributes["size"], record.thumbnail) == (3, b"")


def test_coco_annotations_become_attributes_without_an_encoder_in_a_dry_run(
    encoder_cluster: Cluster, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for number, path in enumerate(images[:3]):
        (tmp_path / "val2017" / f"{number}.jpg").write_bytes(path.read_bytes())
    content: dict[str, Any] = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 9, "height": 8} for number in range(4)],
        "annotations": [
            {"image_id": 0, "category_id": 7, "segmentation": [[1.0]]},
            {"image_id": 0, "category_id": 7},
            {"image_id": 0, "category_id": 3},
            {"image_id": 2, "category_id": 3},
        ],
    }
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(content))
    report = tmp_path / "dead.jsonl"
    summary = ingest(encoder_cluster, report, file, "-c", "coco", "--dry-run")
    assert (summary["found"], summary["encoded"], summary["unreadable"]) == (4, 3, 1)
    summary = ingest(encoder_cluster, report, file, "-c", "coco", "--dry-run", "--where", '{"labels": "dog"}')
    assert (summary["encoded"], summary["skipped"]) == (2, 2)
    summary = ingest(
        encoder_cluster, report, file, "-c", "coco", "--dry-run", "--where", '{"boxes": {"$gte": 3}}', "--images",
        tmp_path / "elsewhere",
    )  # fmt: skip
    (letter,) = map(json.loads, report.read_text().splitlines())
    assert letter["attributes"] == {"labels": ["cat", "dog"], "boxes": 3, "coco_id": 0, "width": 9, "height": 8}
