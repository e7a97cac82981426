"""Backups on a schedule: older ones are removed, but only after the new one was verified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lookalike import Record
from lookalike.jobs.backup.folder import MANIFEST, Folder
from tests.command import lookalike
from tests.conftest import Cluster

NAME = "kept"


@pytest.fixture(scope="module", autouse=True)
def records(cluster: Cluster) -> Iterator[None]:
    with cluster.client() as client:
        client.create_collection(NAME, bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(200)], collection=NAME)
        yield
        client.drop_collection(NAME)


def back_up(cluster: Cluster, folder: Path, *options: str) -> dict[str, Any]:
    code, said, complaint = lookalike(
        "backup", folder, "-c", NAME, "--server", cluster.address, "--json", *options
    )
    assert code == 0, complaint
    found: dict[str, Any] = json.loads(said)
    return found


def test_only_the_last_backups_and_their_bases_stay(cluster: Cluster, tmp_path: Path) -> None:
    assert back_up(cluster, tmp_path, "--keep", "2")["removed"] == []
    assert back_up(cluster, tmp_path, "--keep", "2")["base"] == 1
    # Number 3 adds to 2, and 2 to 1.
    assert back_up(cluster, tmp_path, "--keep", "2")["removed"] == []
    assert back_up(cluster, tmp_path, "--keep", "2", "--full")["removed"] == []
    last = back_up(cluster, tmp_path, "--keep", "2", "--full-days", "7")
    assert (last["number"], last["base"], last["removed"]) == (5, 4, [1, 2, 3])
    assert Folder(str(tmp_path), NAME).numbers() == [4, 5]
    code, said, _ = lookalike("restore", tmp_path, "-c", NAME, "--check")
    assert (code, said.split(",")[0]) == (0, "verified: backup 4")


def test_a_full_backup_is_taken_when_the_last_one_is_too_old(cluster: Cluster, tmp_path: Path) -> None:
    assert back_up(cluster, tmp_path, "--full-days", "1")["base"] is None
    assert back_up(cluster, tmp_path, "--full-days", "1")["base"] == 1
    assert back_up(cluster, tmp_path, "--full-days", "0")["base"] is None


def test_a_damaged_backup_is_reported_and_nothing_is_removed(cluster: Cluster, tmp_path: Path) -> None:
    back_up(cluster, tmp_path)
    back_up(cluster, tmp_path, "--full")
    # Damaged, but with its size, so that the next backup adds to it.
    part = max((tmp_path / NAME / "000002").glob("part-*"), key=lambda file: file.stat().st_size)
    part.write_bytes(bytes(part.stat().st_size))
    code, _, complaint = lookalike("backup", tmp_path, "-c", NAME, "--server", cluster.address, "--keep", "1")
    assert code == 1
    assert f"{part.name} is damaged" in complaint
    assert Folder(str(tmp_path), NAME).finished() == [1, 2, 3]
    # A full backup needs no other, and replaces all.
    assert back_up(cluster, tmp_path, "--keep", "1", "--full")["removed"] == [1, 2, 3]


def test_what_an_interrupted_backup_left_is_removed(cluster: Cluster, tmp_path: Path) -> None:
    back_up(cluster, tmp_path)
    back_up(cluster, tmp_path, "--full")
    (tmp_path / NAME / "000001" / MANIFEST).unlink()
    assert back_up(cluster, tmp_path, "--keep", "9")["removed"] == [1]
    (tmp_path / NAME / "000004").mkdir()
    # It may still be running.
    assert back_up(cluster, tmp_path, "--keep", "9")["removed"] == []
    assert back_up(cluster, tmp_path, "--keep", "9")["removed"] == [4]
    assert Folder(str(tmp_path), NAME).numbers() == [2, 3, 5, 6]


def test_the_command_says_what_it_removed(cluster: Cluster, tmp_path: Path) -> None:
    for removed in ("none", "1"):
        code, said, _ = lookalike(
            "backup", tmp_path, "-c", NAME, "--server", cluster.address, "--keep", "1", "--full"
        )
        assert (code, said.splitlines()[-1]) == (0, f"verified; removed: {removed}")
