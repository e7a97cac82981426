"""Duplicates are moved, deleted or tagged, and everything comes back, after a kill in the middle too.

The records have codes that are written here, and the facts that an image job stores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.file_facts import facts_and_picture
from encoder.ingest.sources import find_sources
from encoder.thumbnails import small_jpeg
from lookalike import Client, Record, StoredRecord
from tests.command import lookalike
from tests.conftest import Cluster

GROUPS, EACH = 5, 4
DUPLICATES = GROUPS * (EACH - 1)
Records = list[StoredRecord]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of four files: the largest, its copy, a smaller version, and one more in another folder."""
    folder = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(1)
    for number in range(GROUPS):
        image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((400, 300))
        group = folder / f"album {number}"
        group.mkdir()
        image.save(group / "best.png")
        shutil.copyfile(group / "best.png", group / "copy.png")
        image.resize((200, 150)).save(group / "small.jpg")
        (folder / "other").mkdir(exist_ok=True)
        image.resize((300, 225)).save(folder / "other" / f"{number}.webp")
    return folder


@pytest.fixture
def photos(originals: Path, tmp_path: Path) -> Path:
    """The files, as the user has them."""
    folder = tmp_path / "photos"
    shutil.copytree(originals, folder)
    return folder


@pytest.fixture(params=["plain", "features"])
def collection(request: pytest.FixtureRequest, client: Client) -> Iterator[str]:
    """A collection with and without features."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:30]
    features = {"features": "float16", "feature_width": 3} if request.param == "features" else {}
    client.create_collection(name, bits=64, **features)
    yield name
    client.drop_collection(name)


def store(client: Client, collection: str, photos: Path) -> Records:
    """Stores records as an image job does. Returns them, by key."""
    keeps_features = client.get_collection(collection).indexing.keeps_features
    records = []
    for source in find_sources([str(photos)]).sources:
        path = source.url.removeprefix("file://")
        facts, picture = facts_and_picture(Path(path).read_bytes())
        number = int("".join(filter(str.isdigit, source.key)))
        records.append(
            Record(
                source.key,
                code=bytes([1 << number] * 7 + ["png" in source.key]),
                attributes=source.attributes_with(dataclasses.asdict(facts)),
                features=np.array([number, 1, 2], np.float32) if keeps_features else None,
                thumbnail=small_jpeg(picture),
            )
        )
    client.upsert(records, collection=collection)
    return stored(client, collection, photos)


def stored(client: Client, collection: str, photos: Path) -> Records:
    """The records, without versions: storing again gives a new one."""
    keys = [f"album {n}/{name}" for n in range(GROUPS) for name in ("best.png", "copy.png", "small.jpg")]
    keys += [f"other/{n}.webp" for n in range(GROUPS)]
    found = client.get(keys, collection=collection, include_thumbnails=True)
    return [dataclasses.replace(record, version=0) for record in found]


def features_of(client: Client, collection: str) -> dict[str, bytes]:
    parts = client.backup(collection, np.ones(1_024, np.bool_))
    return {record.key: record.features for part in parts if isinstance(part, list) for record in part}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def by_codes(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments, with a distance: these tests are about what is done to groups, however they are found."""
    return arguments if {"--max-distance", "--undo"} & set(arguments) else ("--max-distance", 4, *arguments)


@pytest.fixture
def dedup(cluster: Cluster, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in a folder of its own; returns its JSON."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: object) -> dict[str, Any]:
        code, said, complaint = lookalike(
            "dedup", *by_codes(arguments), "-c", collection, "--server", cluster.address, "--json"
        )
        assert code == 0, complaint
        answer: dict[str, Any] = json.loads(said)
        return answer

    return run


@pytest.fixture
def complaint(cluster: Cluster, collection: str, dedup: Any) -> Any:
    """Runs the command, which fails; returns its error."""

    def run(*arguments: object) -> str:
        code, _, said = lookalike("dedup", *by_codes(arguments), "-c", collection, "--server", cluster.address)
        assert code == 1
        return said

    return run


def test_groups_say_which_record_to_keep(client: Client, collection: str, photos: Path, dedup: Any) -> None:
    store(client, collection, photos)
    found = dedup("--max-distance", 4)
    assert (found["groups"], found["duplicates"], found["exact"], found["near"]) == (
        GROUPS, DUPLICATES, GROUPS, DUPLICATES - GROUPS,
    )  # fmt: skip
    for group in found["found"]:
        kept, *more = [record for record in group["records"] if record.get("keep")]
        assert not more
        assert kept["key"].endswith("/best.png")
        assert (kept["width"], kept["height"]) == (400, 300)
        assert kept["bytes"] == (photos / kept["key"]).stat().st_size
        exact = [record["key"] for record in group["records"] if record.get("exact")]
        assert exact == [kept["key"].replace("best", "copy")]
    only = dedup("--exact-only")
    assert (only["groups"], only["exact"], only["near"]) == (GROUPS, GROUPS, 0)


@pytest.mark.parametrize("action", ["move", "delete", "tag"])
def test_a_dry_run_says_what_would_happen_and_does_nothing(
    client: Client, collection: str, photos: Path, dedup: Any, tmp_path: Path, action: str
) -> None:
    before, held = store(client, collection, photos), files(photos)
    found = dedup("--apply", f"move:{tmp_path / 'away'}" if action == "move" else action)["apply"]
    assert (found["dry_run"], found["done"], found["skipped"], found["undo_list"]) == (True, DUPLICATES, 0, None)
    size = sum(len(data) for name, (data, _) in held.items() if not name.endswith("best.png"))
    assert found["bytes"] == (0 if action == "tag" else size)
    assert (stored(client, collection, photos), files(photos)) == (before, held)
    assert os.listdir() == []
    assert not (tmp_path / "away").exists()


def test_files_are_moved_and_come_back(
    client: Client, collection: str, photos: Path, dedup: Any, tmp_path: Path
) -> None:
    before, held, features = store(client, collection, photos), files(photos), features_of(client, collection)
    away = tmp_path / "away"
    done = dedup("--apply", f"move:{away}", "--yes")["apply"]
    assert (done["done"], done["skipped"], done["undo_list"]) == (DUPLICATES, 0, "dedup-undo.jsonl")
    assert set(files(photos)) == {f"album {n}/best.png" for n in range(GROUPS)}
    assert {**files(photos), **files(away)} == held
    assert [record.key for record in stored(client, collection, photos)] == [
        f"album {n}/best.png" for n in range(GROUPS)
    ]
    assert dedup()["groups"] == 0
    back = dedup("--undo", "dedup-undo.jsonl")
    assert (back["files"], back["records"], back["skipped_by_reason"]) == (DUPLICATES, DUPLICATES, {})
    assert (stored(client, collection, photos), files(photos), files(away)) == (before, held, {})
    assert features_of(client, collection) == features
    again = dedup("--undo", "dedup-undo.jsonl")
    assert (again["files"], again["records"], again["unchanged"]) == (0, 0, DUPLICATES)


def test_deleted_files_and_their_records_do_not_come_back(
    client: Client, collection: str, photos: Path, dedup: Any
) -> None:
    store(client, collection, photos)
    done = dedup("--apply", "delete", "--yes", "--exact-only")["apply"]
    assert (done["done"], done["skipped"]) == (GROUPS, 0)
    assert not list(photos.rglob("copy.png"))
    assert len(files(photos)) == len(stored(client, collection, photos)) == GROUPS * (EACH - 1)
    back = dedup("--undo", "dedup-undo.jsonl")
    assert (back["records"], back["skipped_by_reason"]) == (0, {"the file is missing": GROUPS})
    entry = json.loads(Path("dedup-undo.jsonl").read_text().splitlines()[1])
    shutil.copy2(str(entry["path"]).replace("copy", "best"), entry["path"])
    time = float(entry["attributes"]["source"]["signature"].partition("-")[2])
    os.utime(entry["path"], (time, time))
    assert dedup("--undo", "dedup-undo.jsonl")["records"] == 1


def test_tags_name_the_kept_record_and_are_removed_again(
    client: Client, collection: str, photos: Path, dedup: Any
) -> None:
    before, features = store(client, collection, photos), features_of(client, collection)
    shutil.rmtree(photos)
    assert dedup("--apply", "tag", "--yes")["apply"]["done"] == DUPLICATES
    tags = {record.key: record.attributes.get("duplicate_of") for record in stored(client, collection, photos)}
    assert tags["album 2/best.png"] is None
    assert tags["album 2/copy.png"] == tags["other/2.webp"] == "album 2/best.png"
    assert dedup("--apply", "tag", "--yes")["apply"]["skipped_by_reason"] == {
        "the record has this tag already": DUPLICATES
    }
    # Now the copy is the best, and the tag must not be on both.
    client.delete(["album 2/best.png"], collection=collection)
    assert dedup("--apply", "tag", "--yes")["apply"]["done"] == 2
    assert "duplicate_of" not in client.get(["album 2/copy.png"], collection=collection)[0].attributes
    for number in ("-2", ""):
        back = dedup("--undo", f"dedup-undo{number}.jsonl")
        assert back["skipped_by_reason"] == {}
    after = stored(client, collection, photos)
    assert after == [record for record in before if record.key != "album 2/best.png"]
    assert features_of(client, collection) == {key: features[key] for key in features if key != "album 2/best.png"}


def test_the_last_file_of_a_group_and_changed_files_stay(
    client: Client, collection: str, photos: Path, dedup: Any, tmp_path: Path
) -> None:
    store(client, collection, photos)
    (photos / "album 0" / "best.png").unlink()  # the kept file is gone
    (photos / "album 1" / "best.png").write_bytes(b"another picture")
    os.utime(photos / "album 2" / "best.png")  # only touched
    os.utime(photos / "album 2" / "copy.png")
    (photos / "album 3" / "copy.png").write_bytes(b"edited")
    (photos / "album 4" / "copy.png").unlink()
    (photos / "album 4" / "copy.png").symlink_to("best.png")
    (tmp_path / "away" / "other").mkdir(parents=True)
    (tmp_path / "away" / "other" / "4.webp").write_bytes(b"taken")
    held = files(photos)
    expected = {
        "kept record: the file is missing": 3,
        "kept record: the file has changed since it was ingested": 3,
        "the file has changed since it was ingested": 2,
        "the file is the kept one by another path": 1,
        "another file is at the target": 1,
    }
    for arguments in ((), ("--yes",)):
        found = dedup("--apply", f"move:{tmp_path / 'away'}", *arguments)["apply"]
        assert (found["skipped_by_reason"], found["done"]) == (expected, DUPLICATES - 10)
    gone = held.keys() - files(photos).keys()
    assert gone == {"album 2/small.jpg", "other/2.webp", "album 3/small.jpg", "other/3.webp", "album 4/small.jpg"}
    assert (tmp_path / "away" / "other" / "4.webp").read_bytes() == b"taken"


def test_what_cannot_be_done_is_refused(
    client: Client, collection: str, photos: Path, complaint: Any, tmp_path: Path
) -> None:
    assert "use move:DIR, delete or tag" in complaint("--apply", "move")
    assert "does nothing without --apply" in complaint("--yes")
    assert "against: name the files to compare" in complaint("--against")
    assert "against: name the files to compare" in complaint(photos)
    store(client, collection, photos)
    held = files(photos)
    assert "would be ingested again" in complaint("--apply", f"move:{photos / 'duplicates'}", "--yes")
    Path("taken.jsonl").write_text("mine")
    assert "never overwritten" in complaint("--apply", "delete", "--yes", "--undo-list", "taken.jsonl")
    assert "is not an undo list" in complaint("--undo", "taken.jsonl")
    assert "cannot be read" in complaint("--undo", "none.jsonl")
    keeps_features = client.get_collection(collection).indexing.keeps_features
    for key, source in (
        ("far", {"url": "s3://bucket/a.jpg"}),
        ("row", {"url": f"file://{photos}/t.parquet#row=3"}),
    ):
        features = np.zeros(3, np.float32) if keeps_features else None
        record = Record(key, code=bytes([1] * 8), attributes={"source": source}, features=features)
        client.upsert([record], collection=collection)
        said = complaint("--apply", "delete", "--yes")
        assert f"delete needs local files, and record '{key}' comes from {source['url']}; use --apply tag" in said
        client.delete([key], collection=collection)
    assert files(photos) == held
    assert Path("taken.jsonl").read_text() == "mine"


@pytest.mark.usefixtures("dedup")
@pytest.mark.parametrize("collection", ["plain"], indirect=True)
def test_the_command_says_what_it_does_before_and_after(
    cluster: Cluster, client: Client, collection: str, photos: Path, tmp_path: Path
) -> None:
    store(client, collection, photos)
    (photos / "album 0" / "copy.png").write_bytes(b"edited")

    def said(*arguments: object) -> list[str]:
        code, said, complaint = lookalike(
            "dedup", *by_codes(arguments), "-c", collection, "--server", cluster.address
        )
        assert code == 0, complaint
        return said.splitlines()

    groups, counts, *lines = said("--apply", "delete", "--exact-only")[GROUPS - 1 :]
    assert groups.endswith('keep "album 4/best.png", "album 4/copy.png"')
    assert counts.endswith("5 records are not the one to keep (5 exact duplicates, 0 near ones)")
    size = sum((photos / f"album {number}" / "copy.png").stat().st_size for number in range(1, GROUPS))
    skipped = "1 skipped: the file has changed since it was ingested"
    unreturned = "deleted files do not come back: --undo returns only records whose files still exist"
    assert lines == [
        f"4 files would be deleted, {size:,} bytes freed", unreturned, skipped,
        "nothing was done; add --yes to do it",
    ]  # fmt: skip
    away = tmp_path / "away"
    lines = said("--apply", f"move:{away}", "--exact-only", "--yes")[GROUPS + 1 :]
    assert lines == [
        f"4 files moved to {away}, {size:,} bytes freed", skipped,
        "to take it back: lookalike dedup --undo dedup-undo.jsonl",
    ]  # fmt: skip
    assert said("--undo", "dedup-undo.jsonl") == [
        f"4 files moved back, 4 records of {collection} stored again, 0 unchanged"
    ]


# Runs the command, and kills its process at the n-th call of a function, before or after the call.
DYING = """
import importlib, os, signal, sys
from lookalike.cli import main
module, name, count, when = sys.argv[1:5]
holder = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    holder = getattr(holder, part)
whole, calls = getattr(holder, last), 0
def dying(*arguments, **options):
    global calls
    calls += 1
    if calls == int(count) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = whole(*arguments, **options)
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(holder, last, dying)
sys.argv[1:] = sys.argv[5:]
main()
"""
DELETE = ("lookalike.client.sync_client", "Client.delete")
MOMENTS = [
    (("os", "fsync"), 2, "before"),  # the undo list is not synced
    (("os", "link"), 1, "before"),  # it is, and nothing else was done
    (("os", "link"), 3, "after"),  # a file has two names
    (("lookalike.files.moves", "move"), 4, "after"),  # a file was moved, its record exists
    (DELETE, 1, "before"),
    (DELETE, 1, "after"),
]  # fmt: skip


def kill(cluster: Cluster, moment: tuple[tuple[str, str], int, str], arguments: Sequence[object]) -> None:
    """Runs the command in a process that is killed at a moment."""
    (module, name), count, when = moment
    command = [
        sys.executable, "-c", DYING, module, name, str(count), when, *map(str, arguments),
        "--server", cluster.address,
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True).returncode == -9


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment[0][1]}-{moment[1]}-{moment[2]}")
@pytest.mark.parametrize("collection", ["plain"], indirect=True)
def test_a_killed_move_is_completed_and_taken_back(
    cluster: Cluster, client: Client, collection: str, photos: Path, dedup: Any, tmp_path: Path, moment: Any
) -> None:
    before, held = store(client, collection, photos), files(photos)
    away = tmp_path / "away"
    command = ("dedup", "--apply", f"move:{away}", "--yes", "--max-distance", "4", "-c", collection)
    kill(cluster, moment, command)
    assert {**files(photos), **files(away)} == held
    assert dedup("--apply", f"move:{away}", "--yes")["apply"]["skipped"] == 0
    assert {**files(photos), **files(away)} == held
    assert files(photos).keys() == {f"album {n}/best.png" for n in range(GROUPS)}
    assert len(stored(client, collection, photos)) == GROUPS
    for path in sorted(Path().glob("*.jsonl")):
        if path.read_text():
            assert dedup("--undo", path)["skipped_by_reason"] == {}
    assert (stored(client, collection, photos), files(photos), files(away)) == (before, held, {})


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment[0][1]}-{moment[1]}-{moment[2]}")
@pytest.mark.parametrize("collection", ["plain"], indirect=True)
def test_a_killed_move_is_taken_back_at_once_and_a_killed_undo_is_completed(
    cluster: Cluster, client: Client, collection: str, photos: Path, dedup: Any, tmp_path: Path, moment: Any
) -> None:
    before, held = store(client, collection, photos), files(photos)
    away = tmp_path / "away"
    kill(cluster, moment, ("dedup", "--apply", f"move:{away}", "--yes", "--max-distance", "4", "-c", collection))
    undo = Path("dedup-undo.jsonl")
    if undo.exists() and undo.read_text():
        assert dedup("--undo", undo)["skipped_by_reason"] == {}
    assert (stored(client, collection, photos), files(photos), files(away)) == (before, held, {})
    dedup("--apply", f"move:{away}", "--yes", "--undo-list", "second.jsonl")
    kill(cluster, (("lookalike.files.moves", "move"), 4, "after"), ("dedup", "--undo", "second.jsonl"))
    assert {**files(photos), **files(away)} == held
    assert dedup("--undo", "second.jsonl")["skipped_by_reason"] == {}
    assert (stored(client, collection, photos), files(photos), files(away)) == (before, held, {})


@pytest.mark.parametrize("moment", [(("pathlib", "Path.unlink"), 4, "after"), (DELETE, 1, "before")], ids=str)
@pytest.mark.parametrize("collection", ["plain"], indirect=True)
def test_a_killed_deletion_leaves_a_copy_of_each_picture_and_is_completed(
    cluster: Cluster, client: Client, collection: str, photos: Path, dedup: Any, moment: Any
) -> None:
    store(client, collection, photos)
    kill(cluster, moment, ("dedup", "--apply", "delete", "--yes", "--max-distance", "4", "-c", collection))
    assert len(stored(client, collection, photos)) == GROUPS * EACH
    assert dedup("--apply", "delete", "--yes")["apply"]["skipped"] == 0
    assert files(photos).keys() == {f"album {n}/best.png" for n in range(GROUPS)}
    assert len(stored(client, collection, photos)) == GROUPS


@pytest.mark.parametrize("collection", ["plain"], indirect=True)
def test_a_torn_last_line_of_an_undo_list_is_left_out_and_damage_is_not(
    client: Client, collection: str, photos: Path, dedup: Any, complaint: Any, tmp_path: Path
) -> None:
    store(client, collection, photos)
    dedup("--apply", "tag", "--yes")
    text = Path("dedup-undo.jsonl").read_text()
    Path("torn.jsonl").write_text(text[:-40])
    assert dedup("--undo", "torn.jsonl")["records"] == DUPLICATES - 1
    lines = text.splitlines(keepends=True)
    Path("damaged.jsonl").write_text("".join([*lines[:2], lines[2][:40] + "\n", *lines[3:]]))
    assert "line 3 of damaged.jsonl is damaged" in complaint("--undo", "damaged.jsonl")
