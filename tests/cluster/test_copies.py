"""`lookalike calibrate`, and `lookalike dedup` without options, on photographs and copies of them that the batch
job has stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from encoder.copies.edits import EDITS, edited, saved
from encoder.copies.pictures import opened
from lab.demo.photographs import bundled_photographs
from lookalike import Client, Record
from tests.cluster.test_encoder import ingest
from tests.command import lookalike
from tests.conftest import Cluster

COLLECTION = "copies"
TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.TRANSVERSE)
FOUND = ("compression", "scale", "watermark", "border", "crop-corner", "rotation")


@pytest.fixture
def client(encoder_cluster: Cluster) -> Iterator[Client]:
    with encoder_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def stored(
    encoder_cluster: Cluster, ray: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Twelve photographs, each in a folder with some copies, mirrored and turned ones too. Returns their names."""
    folder = tmp_path_factory.mktemp("copies")
    photographs = bundled_photographs()[:12]
    for seed, photograph in enumerate(photographs):
        image = opened(photograph.path.read_bytes())
        files = {"original": image} | {
            name: edited(name.replace("-", " "), image, seed) for name in (*FOUND, "mirror")
        }
        files |= {turn.name.lower(): image.transpose(turn) for turn in TURNS}
        for name, copy in files.items():
            (folder / photograph.name).mkdir(exist_ok=True)
            (folder / photograph.name / f"{name}.jpg").write_bytes(saved(copy))
    summary = ingest(encoder_cluster, ray, folder.parent / "report.jsonl", folder, "-c", COLLECTION)
    assert summary["stored"] == len(photographs) * (len(FOUND) + 2 + len(TURNS))
    return [photograph.name for photograph in photographs]


def run(cluster: Cluster, *arguments: object, collection: str = COLLECTION) -> tuple[dict[str, Any], str]:
    """The command's JSON, and what it says on standard error."""
    code, said, complaint = lookalike(*arguments, "-c", collection, "--server", cluster.address, "--json")
    assert code == 0, complaint
    return json.loads(said), complaint


def keys_by_group(found: dict[str, Any]) -> list[set[str]]:
    return [{record["key"] for record in group["records"]} for group in found["found"]]


def test_dedup_without_options_calibrates_once_and_finds_copies_only(
    encoder_cluster: Cluster, stored: list[str], client: Client
) -> None:
    found, said = run(encoder_cluster, "dedup")
    assert "'copies' is not calibrated yet" in said
    groups = keys_by_group(found)
    assert all(len({key.split("/")[0] for key in group}) == 1 for group in groups)
    together = {key for group in groups for key in group if f"{key.split('/')[0]}/original.jpg" in group}
    expected = {f"{name}/{edit}.jpg" for name in stored for edit in FOUND}
    assert len(expected & together) >= 0.8 * len(expected)
    assert found["pairs"]["unchecked"] == 0
    assert found["pairs"]["copies"] < found["pairs"]["candidates"]
    again, said = run(encoder_cluster, "dedup")
    assert "calibrated" not in said
    assert again == found


def test_mirrored_and_turned_copies_are_found_on_request(encoder_cluster: Cluster, stored: list[str]) -> None:
    mirrored = {f"{name}/mirror.jpg" for name in stored}
    turned = {f"{name}/{turn.name.lower()}.jpg" for name in stored for turn in TURNS}
    by_default, _ = run(encoder_cluster, "dedup")
    with_orientations, _ = run(encoder_cluster, "dedup", "--orientations")
    assert with_orientations["pairs"]["without_hash"] == 0
    for wanted in (mirrored, turned):
        before, after = (
            {
                key
                for group in keys_by_group(found)
                for key in group & wanted
                if f"{key.split('/')[0]}/original.jpg" in group
            }
            for found in (by_default, with_orientations)
        )
        assert len(before) < len(after)
        assert len(after) >= 0.9 * len(wanted)


def test_a_distance_alone_means_codes_alone(encoder_cluster: Cluster, stored: list[str]) -> None:
    found, _ = run(encoder_cluster, "dedup", "--max-distance", 20)
    assert "pairs" not in found
    checked, _ = run(encoder_cluster, "dedup", "--max-distance", 20, "--check")
    assert checked["pairs"]["copies"] <= checked["pairs"]["candidates"]
    measured, _ = run(encoder_cluster, "calibrate", "--sample", 10)
    by_calibration, _ = run(encoder_cluster, "dedup", "--no-check")
    assert by_calibration["max_distance"] == measured["max_distance"]
    assert "pairs" not in by_calibration


def test_calibrate_measures_each_edit_and_draws(
    encoder_cluster: Cluster, stored: list[str], tmp_path: Path
) -> None:
    made, _ = run(encoder_cluster, "calibrate", "--sample", 12, "--plot", tmp_path / "plot.png")
    assert made["pictures"] == 12
    assert made["source"].startswith("measured")
    recalls = [row["recall"] for row in made["distances"]]
    assert recalls == sorted(recalls)
    assert set(made["distances"][0]["by_edit"]) == set(made["second_opinion_recall"]) == set(EDITS)
    assert made["second_opinion_recall"]["compression"] == 1
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 500
    code, said, _ = lookalike("calibrate", "-c", COLLECTION, "--sample", "10", "--server", encoder_cluster.address)
    assert code == 0
    assert "second opinion" in said


def test_codes_without_pictures_are_estimated_and_counted_as_unchecked(
    encoder_cluster: Cluster, client: Client
) -> None:
    client.create_collection("no-pictures", bits=64)
    near = bytes(8), b"\x01" + bytes(7), b"\x55" * 8, b"\x3c" * 8
    client.upsert([Record(f"k{row}", code=code) for row, code in enumerate(near)], collection="no-pictures")
    made, _ = run(encoder_cluster, "calibrate", collection="no-pictures")
    assert made["source"].startswith("estimated")
    found, _ = run(encoder_cluster, "dedup", "--max-distance", 10, "--check", collection="no-pictures")
    assert (found["pairs"]["candidates"], found["pairs"]["unchecked"]) == (1, 1)


def test_an_empty_collection_has_no_groups_and_no_calibration(encoder_cluster: Cluster, client: Client) -> None:
    client.create_collection("empty-copies", bits=64)
    found, said = run(encoder_cluster, "dedup", collection="empty-copies")
    assert (found["groups"], found["pairs"]["candidates"]) == (0, 0)
    code, _, said = lookalike("calibrate", "-c", "empty-copies", "--server", encoder_cluster.address)
    assert code == 1
    assert "fewer than two records" in said


def test_orientations_need_pictures(encoder_cluster: Cluster) -> None:
    code, _, said = lookalike("dedup", "--orientations", "--no-check", "--server", encoder_cluster.address)
    assert code == 1
    assert "orientations: needs the pictures; leave --no-check out" in said


def test_new_files_are_compared_by_their_pictures(
    encoder_cluster: Cluster, stored: list[str], tmp_path: Path
) -> None:
    """Without --max-distance, a copy of a stored photograph is known by its picture. Another photograph is not,
    whatever lies within the wide distance."""
    photograph = bundled_photographs()[0]
    other = bundled_photographs()[12]
    assert (photograph.name in stored, other.name in stored) == (True, False)
    (tmp_path / "known.jpg").write_bytes(saved(opened(photograph.path.read_bytes()), 35))
    (tmp_path / "new.jpg").write_bytes(saved(opened(other.path.read_bytes())))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    found, _ = run(encoder_cluster, "dedup", tmp_path, "--against")
    assert (found["files"], found["known"], found["known_exact"], found["unreadable"]) == (3, 1, 0, 1)
    known = next(each for each in found["found"] if each.get("duplicates"))
    assert known["file"].endswith("known.jpg")
    assert {hit["key"].split("/")[0] for hit in known["duplicates"]} == {photograph.name}
    assert len(known["duplicates"]) >= 4
    by_codes, _ = run(encoder_cluster, "dedup", tmp_path, "--against", "--no-check")
    assert by_codes["max_distance"] < found["max_distance"]
