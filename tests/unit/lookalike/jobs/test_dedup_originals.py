"""Which local file a record was made from, and whether it is still that file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from encoder.ingest.sources import find_sources
from lookalike.jobs.dedup.originals import CHANGED, LINK, MISSING, UNKNOWN, Original, original_of

CONTENT = b"\xff\xd8\xff a picture"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ROW_MARK = "0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "photos" / "cats" / "a b#1%20+.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


def of(file: Path, signature: str | None = None, **facts: Any) -> Original:
    """The file as a record describes it. signature: by default the one that an image job gives."""
    if signature is None:
        signature = find_sources([str(file)]).sources[0].signature
    source = {"url": f"file://{file}", "signature": signature, **facts}
    found = original_of("cats/a b#1%20+.jpg", {"source": source})
    assert found is not None
    return found


def test_a_file_that_an_image_job_stored_is_found(file: Path, tmp_path: Path) -> None:
    (source,) = find_sources([str(tmp_path / "photos")]).sources
    found = original_of(source.key, source.attributes_with({"bytes": len(CONTENT), "sha256": DIGEST}))
    assert found is not None
    assert (found.path, found.folder) == (file, tmp_path / "photos")
    assert (found.below, found.size, found.digest) == (PurePosixPath("cats") / file.name, len(CONTENT), DIGEST)
    assert (found.why_not_original(), found.why_not_whole()) == ("", "")


@pytest.mark.parametrize("key", ["a", "other/a.jpg", "../photos/a.jpg", "/photos/a.jpg", "os/a.jpg"])
def test_a_key_of_another_form_keeps_the_whole_path(key: str) -> None:
    found = original_of(key, {"source": {"url": "file:///photos/a.jpg", "signature": "1-2.0"}})
    assert found is not None
    assert (found.folder, found.below) == (None, PurePosixPath("photos/a.jpg"))


@pytest.mark.parametrize(
    "source",
    [
        None, "x", {}, {"url": 5}, {"url": "s3://bucket/a.jpg"}, {"url": "https://host/a.jpg"}, {"url": "/a.jpg"},
        {"url": "file://relative.jpg"}, {"url": "file:///t.parquet#row=3"}, {"url": "file:///t.parquet#row=3&image=b"},
        {"url": "file:///t.tar#bytes=512+90"}, {"url": "file:///t.zip#member=a.jpg"},
    ],
)  # fmt: skip
def test_what_is_not_a_local_file_is_not_taken_for_one(source: Any) -> None:
    assert original_of("a.jpg", {"source": source}) is None


@pytest.mark.parametrize("with_facts", [True, False])
@pytest.mark.parametrize("suffix", ["", "+0123456789abcdef"])
def test_size_and_time_tell_whether_a_file_changed(file: Path, with_facts: bool, suffix: str) -> None:
    """A description beside the file adds its digest to the mark."""
    facts = {"bytes": len(CONTENT), "sha256": DIGEST} if with_facts else {}
    original = of(file, of(file).mark + suffix, **facts)
    assert (original.why_not_original(), original.why_not_whole()) == ("", "")
    os.utime(file, (1, 1))
    assert original.why_not_original() == CHANGED
    assert original.why_not_whole() == ("" if with_facts else UNKNOWN)
    file.write_bytes(CONTENT.swapcase())
    assert original.why_not_whole() == (CHANGED if with_facts else UNKNOWN)
    file.write_bytes(b"shorter")
    assert (original.why_not_original(), original.why_not_whole()) == (CHANGED, CHANGED)
    file.unlink()
    assert (original.why_not_original(), original.why_not_whole()) == (MISSING, MISSING)


def test_a_file_that_a_table_lists_is_told_by_its_bytes(file: Path) -> None:
    assert of(file, ROW_MARK).why_not_original() == UNKNOWN
    original = of(file, ROW_MARK, bytes=len(CONTENT), sha256=DIGEST)
    os.utime(file, (1, 1))
    assert original.why_not_original() == ""
    file.write_bytes(CONTENT.swapcase())
    assert original.why_not_original() == CHANGED


def test_links_and_folders_are_not_the_original(file: Path, tmp_path: Path) -> None:
    original = of(file)
    file.rename(tmp_path / "elsewhere.jpg")
    file.symlink_to(tmp_path / "elsewhere.jpg")
    assert (original.why_not_original(), original.why_not_whole()) == (LINK, "")
    file.unlink()
    file.mkdir()
    assert original.why_not_original() == CHANGED
    file.rmdir()
    file.parent.rmdir()
    file.parent.write_text("a file")
    assert original.why_not_original() == MISSING
