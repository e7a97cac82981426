"""Which files of a folder are taken, and that each of the others is counted with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from s3fs import S3FileSystem

from encoder.ingest.sources import Found, find_sources
from lookalike.model.errors import InvalidRequest
from tests.command import lookalike

LOOP = "symbolic link to a folder that contains it"
BROKEN = "broken symbolic link"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "sub/b.jpg"):
        picture(folder / name)
    return folder


def picture(path: Path, kind: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "teal").save(path, kind)


def found(folder: Path | str, include_hidden: bool = False) -> Found:
    return find_sources([str(folder)], include_hidden)


def keys(folder: Path | str, include_hidden: bool = False) -> list[str]:
    return [source.key for source in found(folder, include_hidden).sources]


def test_content_decides_what_a_file_with_another_ending_is(folder: Path) -> None:
    picture(folder / "photo.txt")
    picture(folder / "0a1b2c", "PNG")
    picture(folder / "v2.final", "WEBP")
    (folder / "notes.txt").write_text("BMW")
    (folder / "metadata.csv").write_text("key\na\n")
    assert keys(folder) == ["0a1b2c", "a.jpg", "photo.txt", "sub/b.jpg", "v2.final"]
    assert found(folder).skipped == {"not an image": 2}


def test_hidden_files_and_thumbnail_folders_are_counted_and_taken_on_request(folder: Path) -> None:
    hidden = (".x.jpg", ".git/objects/y.jpg", "sub/.cache/z.jpg")
    small = ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".thumbnails/1.jpg", "__MACOSX/._a.jpg", ".@__thumb/s.jpg")
    for name in (*hidden, *small):
        picture(folder / name)
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    assert keys(folder) == ["a.jpg", "sub/b.jpg"]
    assert found(folder).skipped == {
        "hidden": 3,
        "in a thumbnail folder (@eaDir)": 1,
        "in a thumbnail folder (.thumbnails)": 1,
        "in a thumbnail folder (__MACOSX)": 1,
        "in a thumbnail folder (.@__thumb)": 1,
        "a cache of thumbnails (thumbs.db)": 1,
    }
    assert keys(folder, include_hidden=True) == sorted([*hidden, *small, "a.jpg", "sub/b.jpg"])
    assert found(folder, include_hidden=True).skipped == {"not an image": 1}
    assert keys(folder / ".git") == ["objects/y.jpg"]
    assert keys(folder / ".x.jpg") == [".x.jpg"]


def test_links_to_files_and_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    picture(tmp_path / "blobs" / "c0ffee")
    picture(tmp_path / "album" / "deep" / "d.jpg")
    (folder / "c.jpg").symlink_to("../blobs/c0ffee")
    (folder / "linked").symlink_to(tmp_path / "album")
    assert keys(folder) == ["a.jpg", "c.jpg", "linked/deep/d.jpg", "sub/b.jpg"]
    assert keys(f"{folder}/**/*.jpg") == ["a.jpg", "c.jpg", "linked/deep/d.jpg", "sub/b.jpg"]
    assert keys(f"{folder}/*.jpg") == ["a.jpg", "c.jpg"]
    assert keys(folder / "c.jpg") == ["c.jpg"]
    before = found(folder).sources[1].signature
    os.utime(tmp_path / "blobs" / "c0ffee", (1, 1))
    assert found(folder).sources[1].signature != before


def test_loops_end_and_are_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "self").symlink_to(".")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "outside").symlink_to(tmp_path)
    other = tmp_path / "other"
    picture(other / "o.jpg")
    (other / "back").symlink_to(folder)
    (folder / "sub" / "there").symlink_to(other)
    assert keys(folder) == ["a.jpg", "sub/b.jpg", "sub/there/o.jpg"]
    # self, up, outside, and back.
    assert found(folder).skipped == {LOOP: 4}
    for name in ("self", "sub/up"):
        os.remove(folder / name)
    assert found(folder).skipped == {LOOP: 2}


def test_broken_links_and_special_files_are_counted_and_never_opened(folder: Path) -> None:
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "ring").symlink_to("ring")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.jpg")
    assert keys(folder) == ["a.jpg", "sub/b.jpg"]
    assert found(folder).skipped == {BROKEN: 2, "neither a file nor a folder": 2}


def test_folder_that_cannot_be_listed_is_one_refusal(folder: Path) -> None:
    """In a process without root's right to read everything."""
    picture(folder / "locked" / "c.jpg")
    (folder / "locked" / "d.txt").touch()
    (folder / "private").write_bytes(b"x")
    os.chmod(folder / "locked", 0)
    os.chmod(folder / "private", 0)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "lookalike", "ingest", folder, "--dry-run", "--report", folder / "../r"],
            capture_output=True,
            text=True,
            preexec_fn=give_up_reading_everything,
        )
    finally:
        os.chmod(folder / "locked", 0o700)
    assert result.returncode == 0, result.stderr
    assert "4 images: 2 can be stored, 2 cannot" in result.stdout
    letters = (folder / "../r").read_text().splitlines()
    assert sum(f"{folder}/locked" in line and "Permission denied" in line for line in letters) == 1
    assert sum(f"{folder}/private" in line and "Permission denied" in line for line in letters) == 1


def give_up_reading_everything() -> None:
    """Drops CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which root has and others do not."""
    import ctypes

    drop_from_bounding_set = 24
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_folder_without_images_is_an_error_that_counts_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / ".b.jpg").touch()
    (tmp_path / "c.nef").touch()
    words = (
        f"path: {tmp_path} holds no image that can be read: 1 skipped: camera raw; convert it to JPEG or TIFF;"
        " 1 skipped: hidden; 1 skipped: not an image"
    )
    code, _, complaint = lookalike("ingest", tmp_path, "--dry-run", "--report", f"{tmp_path}.jsonl")
    assert code == 1
    assert words in complaint


def test_glob_that_matches_folders_only_says_so(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"matches folders, but no file; end it with /\*\*"):
        found(f"{folder}/su*")


def test_remote_files_without_an_ending_are_judged_by_their_content(tmp_path: Path) -> None:
    picture(tmp_path / "p.jpg")
    data = (tmp_path / "p.jpg").read_bytes()
    store = "memory://mixed"
    for name in ("a.jpg", "noending", "wrong.txt", "readme", ".hidden.jpg", "@eaDir/s.jpg"):
        with fsspec.open(f"{store}/{name}", "wb") as file:
            file.write(b"text" if name == "readme" else data)
    assert keys(store) == ["a.jpg", "noending"]
    assert found(store).skipped == {"not an image": 2, "hidden": 1, "in a thumbnail folder (@eaDir)": 1}
    assert keys(f"{store}/*") == ["a.jpg", "noending"]
    assert keys(f"{store}/wrong.txt") == ["wrong.txt"]


def test_deep_folders_are_walked(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["d"] * 240)
    picture(deep / "x.jpg")
    assert len(keys(tmp_path)) == 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty bucket of an S3 server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    store = boto3.client("s3")
    store.create_bucket(Bucket="mixed")
    yield store
    S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.filterwarnings("default")
def test_objects_of_a_bucket_without_an_ending_are_judged_by_their_content(bucket: Any, tmp_path: Path) -> None:
    picture(tmp_path / "p.jpg")
    data = (tmp_path / "p.jpg").read_bytes()
    for name in ("in/a.jpg", "in/0a1b2c", "in/wrong.txt", "in/readme", "in/empty", "in/.hidden/b.jpg", "in/c.nef"):
        content = {"readme": b"text", "empty": b""}.get(name.removeprefix("in/"), data)
        bucket.put_object(Bucket="mixed", Key=name, Body=content)
    bucket.put_object(Bucket="mixed", Key="in/folder/", Body=b"")
    assert keys("s3://mixed/in") == ["0a1b2c", "a.jpg"]
    assert found("s3://mixed/in").refused == []
    assert found("s3://mixed/in").skipped == {
        "hidden": 1,
        "not an image": 3,
        "camera raw; convert it to JPEG or TIFF": 1,
    }
