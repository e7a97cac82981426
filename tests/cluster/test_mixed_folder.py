"""A folder of 500 files as people have them: the counts of a job add up to 500."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pillow_heif
import pillow_jxl
import pytest
from PIL import Image

from lookalike import Client
from tests.cluster.test_encoder import ingest
from tests.command import lookalike
from tests.conftest import Cluster

FORMATS = {
    "jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM",
    "avif": "AVIF", "jp2": "JPEG2000", "heic": "HEIF", "mpo": "MPO", "jxl": "JXL",
}  # fmt: skip
TOTAL = 500
assert pillow_jxl.Encoder


@pytest.fixture(scope="module")
def mixed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, int]]]:
    """The folder, and how many of its files a job must count as what."""
    pillow_heif.register_heif_opener()
    top = tmp_path_factory.mktemp("mixed")
    folder = top / "phone"
    with Image.open(next(photographs.rglob("*.jpg"))) as photograph:
        pictures = {ending: saved(photograph.convert("RGB"), kind) for ending, kind in FORMATS.items()}
    whole = [*pictures.values()]

    def put(name: str, data: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    for ending, data in pictures.items():
        for number in range(20):
            put(f"{ending}/{number}.{ending if number % 2 else ending.upper()}", data)  # 240
    for number in range(48):
        put(f"cache/{number:064x}", whole[number % 12])
        put(f"wrong/{number}.{('txt', 'jpg', 'dat')[number % 3]}", whole[number % 12])  # 96
    for number in range(20):
        (folder / "links").mkdir(exist_ok=True)
        (folder / "links" / f"{number}.png").symlink_to(f"../jpg/{number}.{'jpg' if number % 2 else 'JPG'}")
    outside = top / "album"
    outside.mkdir()
    for number in range(10):
        (outside / f"{number}.jpg").write_bytes(pictures["jpg"])
    (folder / "album").symlink_to(outside)
    stored = 240 + 96 + 20 + 10

    for number in range(12):
        put(f"damaged/cut{number}.{list(pictures)[number]}", whole[number][: len(whole[number]) // 2])
    for number in range(6):
        put(f"damaged/empty{number}.jpg", b"")
        put(f"damaged/text{number}.png", b"no image")
    unreadable = 12 + 6 + 6 + 1  # and one folder whose path is too long to be opened
    too_long_to_open(folder)

    for number in range(20):
        put(f"documents/{number}.{('txt', 'csv', 'mov', 'json')[number % 4]}", b"BM and other text")
    for number in range(12):
        put(f".hidden/{number}.jpg", pictures["jpg"])
        put(f"jpg/._{number}.jpg", b"\0\5\x16\7")
        put(f"@eaDir/{number}.jpg/SYNOPHOTO_THUMB_S.jpg", pictures["jpg"])
        put(f".thumbnails/{number}.jpg", pictures["jpg"])
        put(f"raw/{number}.nef", b"MM\0*" + bytes(100))
    put("Thumbs.db", b"\xd0\xcf\x11\xe0")
    for number in range(20):
        (folder / "links" / f"broken{number}.jpg").symlink_to("gone.jpg")
    (folder / "links" / "ring.jpg").symlink_to("ring.jpg")
    for number in range(5):
        (folder / "links" / f"up{number}").symlink_to("..")
    os.mkfifo(folder / "pipe")
    (folder / "nothing").mkdir()
    expected = {
        "not an image": 20,
        "hidden": 24,
        "in a thumbnail folder (@eaDir)": 12,
        "in a thumbnail folder (.thumbnails)": 12,
        "a cache of thumbnails (thumbs.db)": 1,
        "camera raw; convert it to JPEG or TIFF": 12,
        "broken symbolic link": 21,
        "symbolic link to a folder that contains it": 5,
        "neither a file nor a folder": 1,
    }
    rest = TOTAL - stored - unreadable - sum(expected.values())
    for number in range(rest):
        put(f"jpg/more/{number}.jpg", pictures["jpg"])
    assert rest >= 0
    yield folder, {**expected, "stored": stored + rest, "unreadable": unreadable}
    shutil.rmtree(folder)


def saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def too_long_to_open(folder: Path) -> None:
    """Makes folders in folders, the last of which has a path over the limit of 4,096 bytes. Even root gets an
    error for it."""
    descriptor = os.open(folder, os.O_RDONLY)
    length = len(str(folder))
    while length < 4_096:
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor, length = inner, length + 201
    os.close(descriptor)


def check(summary: Mapping[str, Any], expected: dict[str, int], stored: int) -> None:
    skipped = {name: count for name, count in expected.items() if name not in ("stored", "unreadable")}
    assert summary["found"] == TOTAL
    assert summary["skipped_by_reason"] == skipped
    assert summary["skipped"] == sum(skipped.values())
    assert summary["unreadable"] == expected["unreadable"]
    assert stored == expected["stored"]
    assert stored + summary["unreadable"] + summary["not_stored"] + summary["skipped"] == TOTAL


def test_dry_run_counts_every_file(mixed: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    folder, expected = mixed
    code, said, complaint = lookalike("ingest", folder, "--dry-run", "--json", "--report", tmp_path / "dead.jsonl")
    assert code == 0, complaint
    summary = json.loads(said)
    check(summary, expected, summary["encoded"])
    letters = [json.loads(line) for line in (tmp_path / "dead.jsonl").read_text().splitlines()]
    assert len(letters) == expected["unreadable"]
    assert sum("File name too long" in letter["reason"] for letter in letters) == 1
    code, said, _ = lookalike("ingest", folder, "--dry-run", "--report", tmp_path / "dead.jsonl")
    assert code == 0
    assert "24 skipped: hidden\n" in said
    code, said, _ = lookalike(
        "ingest", folder, "--dry-run", "--json", "--report", tmp_path / "dead.jsonl", "--limit", 7, "--where",
        '{"label": {"$in": ["png", "gif"]}}',
    )  # fmt: skip
    assert code == 0
    summary = json.loads(said)
    assert summary["encoded"] == 7
    assert summary["skipped_by_reason"]["does not match --where"] > 0
    assert summary["skipped_by_reason"]["over --limit"] > 0
    assert summary["found"] == TOTAL == 7 + summary["unreadable"] + summary["skipped"]


def test_job_stores_every_image_and_counts_the_other_files(
    encoder_cluster: Cluster, ray: Mapping[str, str], mixed: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    folder, expected = mixed
    report = tmp_path / "dead.jsonl"
    summary = ingest(encoder_cluster, ray, report, folder, "-c", "mixed")
    check(summary, expected, summary["stored"])
    with encoder_cluster.client(timeout=60) as client:
        assert client.get_collection("mixed").rows == expected["stored"]
        codes = [
            client.get([f"{ending}/1.{ending}"], collection="mixed", include_thumbnails=True)[0]
            for ending in FORMATS
        ]
        assert all(record.thumbnail for record in codes)
        check_search_by_image(client, folder)
    # The cut files that Pillow can decode as far as they go are stored on request, everything else is unchanged.
    again = ingest(encoder_cluster, ray, report, folder, "-c", "mixed", "--allow-truncated")
    assert again["already_stored"] == expected["stored"]
    assert again["stored"] >= 5
    assert again["stored"] + again["unreadable"] == expected["unreadable"]


def check_search_by_image(client: Client, folder: Path) -> None:
    """The encoder service decodes what the job decodes."""
    for ending in ("heic", "avif", "jxl", "mpo"):
        hits = client.search(image=folder / ending / f"1.{ending}", k=30, collection="mixed").hits
        assert hits[0].distance == 0
        assert any(hit.key.startswith(f"{ending}/") for hit in hits if hit.distance == 0)
