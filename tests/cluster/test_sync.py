"""A collection follows a folder: `ingest --prune` and `watch`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from encoder.file_facts import facts
from encoder.ingest.watch import Follower
from lookalike import Client, Record
from lookalike.model.errors import InvalidRequest
from tests.cluster.test_encoder import ingest, job
from tests.command import lookalike
from tests.conftest import Cluster, wait_until


@pytest.fixture
def client(encoder_cluster: Cluster) -> Iterator[Client]:
    with encoder_cluster.client(timeout=60) as client:
        yield client


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    """Four photographs, in two folders."""
    folder = tmp_path / "photos"
    for name, source in zip(
        ("cats/a.jpg", "cats/b.jpg", "c.jpg", "d.jpg"), sorted(photographs.rglob("*.jpg")), strict=False
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
        os.utime(folder / name, (0, 1_000_000 + (folder / name).stat().st_size))
    return folder


def keys_of(client: Client, collection: str, *keys: str) -> list[str]:
    return [record.key for record in client.get(keys, collection=collection)]


def rate(client: Client, collection: str, *keys: str) -> None:
    """Sets attributes of records, as a user and `dedup --apply tag` do."""
    for record in client.get(keys, collection=collection):
        attributes = {**record.attributes, "rating": record.key, "duplicate_of": "c.jpg"}
        client.upsert([Record(record.key, code=record.code, attributes=attributes)], collection=collection)


def test_pruning_follows_removed_renamed_and_touched_files(
    encoder_cluster: Cluster, ray: Mapping[str, str], client: Client, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    arguments = (folder, "-c", "pruned", "--prune")
    client.create_collection("pruned")
    client.upsert(
        [Record("elsewhere", code=bytes(32), attributes={"source": {"url": f"file://{tmp_path}/x.jpg"}})],
        collection="pruned",
    )
    assert ingest(encoder_cluster, ray, report, *arguments)["stored"] == 4
    rate(client, "pruned", "cats/a.jpg", "cats/b.jpg")
    os.utime(folder / "cats" / "a.jpg")
    (folder / "dogs").mkdir()
    (folder / "cats" / "b.jpg").rename(folder / "dogs" / "renamed.jpg")
    (folder / "d.jpg").unlink()

    command = job(encoder_cluster, *arguments, "--report", report, "--dry-run")
    code, said, complaint = lookalike(*command[3:])
    assert code == 0, complaint
    assert json.loads(said)["removed"] == 2
    assert client.get_collection("pruned").rows == 5

    summary = ingest(encoder_cluster, ray, report, *arguments)
    assert (summary["found"], summary["stored"], summary["already_stored"], summary["removed"]) == (3, 2, 1, 2)
    assert keys_of(client, "pruned", "cats/a.jpg", "cats/b.jpg", "c.jpg", "d.jpg", "elsewhere") == [
        "cats/a.jpg", "c.jpg", "elsewhere",
    ]  # fmt: skip
    touched, renamed = client.get(["cats/a.jpg", "dogs/renamed.jpg"], collection="pruned")
    assert (touched.attributes["rating"], touched.attributes["label"]) == ("cats/a.jpg", "cats")
    assert "duplicate_of" not in touched.attributes
    assert (renamed.attributes["rating"], renamed.attributes["label"]) == ("cats/b.jpg", "dogs")


def test_pruning_refuses_what_would_remove_too_much(
    encoder_cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    def complaint(*arguments: object) -> str:
        command = job(encoder_cluster, *arguments, "-c", "none", "--prune", "--report", tmp_path / "r.jsonl")
        code, _, complaint = lookalike(*command[3:])
        assert code == 1
        return complaint

    assert "c.jpg is not a folder; name folders" in complaint(folder / "c.jpg")
    assert "works on whole folders" in complaint(folder, "--limit", 1)
    assert "works on whole folders" in complaint(folder, "--where", '{"label": "cat"}')
    (tmp_path / "empty").mkdir()
    assert "holds no images; nothing was removed" in complaint(tmp_path / "empty")


def test_a_follower_stores_changes_and_removes_what_is_gone(client: Client, folder: Path) -> None:
    client.create_collection("followed")
    collection = client.get_collection("followed")

    def follower() -> Follower:
        return Follower(client, collection, str(folder), include_hidden=False, retry_seconds=10)

    first = follower()
    (folder / "broken.jpg").write_bytes(b"no image")
    done = first.look()
    assert (done.stored, done.removed, set(done.failed)) == (4, 0, {"broken.jpg"})
    assert (first.look().stored, first.look().failed) == (0, {})
    record, *_ = client.get(["c.jpg"], collection="followed", include_thumbnails=True)
    assert record.thumbnail
    assert (
        record.attributes["source"].items() >= dataclasses.asdict(facts((folder / "c.jpg").read_bytes())).items()
    )
    rate(client, "followed", "cats/a.jpg")
    # Another process goes on from the records.
    second = follower()
    os.utime(folder / "cats" / "a.jpg")
    (folder / "d.jpg").unlink()
    done = second.look()
    assert (done.stored, done.removed, set(done.failed)) == (1, 1, {"broken.jpg"})
    touched, *_ = client.get(["cats/a.jpg"], collection="followed")
    assert touched.attributes["rating"] == "cats/a.jpg"
    assert keys_of(client, "followed", "cats/b.jpg", "d.jpg") == ["cats/b.jpg"]


def test_a_follower_removes_nothing_when_its_disk_is_gone(client: Client, folder: Path) -> None:
    client.create_collection("mounted")
    follower = Follower(client, client.get_collection("mounted"), str(folder), False, 10)
    assert follower.look().stored == 4
    folder.rename(folder.parent / "away")
    with pytest.raises(InvalidRequest, match="does not exist"):
        follower.look()
    folder.mkdir()
    with pytest.raises(InvalidRequest, match="holds no images any more, and 4 records come from it"):
        follower.look()
    folder.rmdir()
    (folder.parent / "away").rename(folder)
    assert (follower.look().stored, client.get_collection("mounted").rows) == (0, 4)


def test_watch_runs_until_it_is_interrupted(encoder_cluster: Cluster, client: Client, folder: Path) -> None:
    command = [
        sys.executable, "-m", "lookalike", "watch", str(folder), "-c", "watched", "--every", "0.1",
        "--server", encoder_cluster.address,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().endswith(" 4 stored, 0 removed\n")
            (folder / "c.jpg").unlink()
            assert process.stdout.readline().endswith(" 0 stored, 1 removed\n")
            wait_until(lambda: client.get_collection("watched").rows == 3, 10)
        finally:
            process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()
    assert (process.returncode, complaint) == (130, "")
