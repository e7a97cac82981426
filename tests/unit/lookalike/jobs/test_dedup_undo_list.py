"""The undo list: whole records, written before anything is done, never overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lookalike.jobs.dedup.undo_list import Entry, Run, UndoList, free_path, read_entries, read_run
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import VersionedRecord, encode_attributes

RUN = Run("move", "photos", "f" * 64, "float16 3")
ATTRIBUTES = {
    "größe": 2**60 + 1,
    "share": 0.1,
    "text": 'a\n"\x1b\u2028',
    "none": None,
    "source": {"url": "file:///a b#1"},
}


def entry(key: str) -> Entry:
    record = VersionedRecord(
        key, bytes(range(8)), encode_attributes(ATTRIBUTES), 2**61, b"\x00\xff", b"\xff\xd8\xff"
    )
    return Entry(record, "kept", "/photos/a\nb.jpg", "/away/a\nb.jpg")


def written(path: Path, *batches: list[Entry], run: Run = RUN) -> Path:
    undo = UndoList(path, run)
    for batch in batches:
        undo.append(batch)
    undo.close()
    return path


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    entries = [entry(f"é{number}\n") for number in range(5)]
    path = written(tmp_path / "undo.jsonl", entries[:2], entries[2:])
    assert read_run(path) == RUN
    assert list(read_entries(path)) == entries
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("tag", [None, "b"])
def test_tags_come_back(tmp_path: Path, tag: str | None) -> None:
    tagged = Entry(entry("a").record, "b", tag=tag)
    path = written(tmp_path / "undo.jsonl", [tagged], run=Run("tag", "photos", "f", ""))
    assert (read_run(path).kind, list(read_entries(path))) == ("tag", [tagged])


def test_a_list_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_path(None, "undo.jsonl") == Path("undo.jsonl")
    Path("undo.jsonl").write_text("mine")
    Path("undo-2.jsonl").symlink_to("nowhere")
    assert free_path(None, "undo.jsonl") == Path("undo-3.jsonl")
    with pytest.raises(InvalidRequest, match="never overwritten"):
        free_path(Path("undo-2.jsonl"), "undo.jsonl")
    # It may have appeared in the meantime.
    with pytest.raises(InvalidRequest, match=r"undo\.jsonl cannot be written \(File exists\)"):
        written(Path("undo.jsonl"), [entry("a")])
    assert Path("undo.jsonl").read_text() == "mine"


def test_a_run_that_does_nothing_leaves_no_file(tmp_path: Path) -> None:
    assert not written(tmp_path / "undo.jsonl").exists()


def test_entries_are_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        sizes.append(os.fstat(descriptor).st_size)

    undo = UndoList(tmp_path / "undo.jsonl", RUN)
    undo.append([entry("a")])
    monkeypatch.setattr(os, "fsync", note)
    undo.append([entry("b")])
    assert sizes == [undo.path.stat().st_size]
    undo.close()


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_last_line_was_not_acted_on(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "undo.jsonl", [entry("a"), entry("b")])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [found.record.key for found in read_entries(path)] == ["a"]


@pytest.mark.parametrize("line", ["", "{", "[]", '{"key": "a"}', '{"key": "a", "kept": "b", "code": "zz"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "undo.jsonl", [entry("a")])
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InvalidRequest, match=r"line 3 of .*undo\.jsonl is damaged"):
        list(read_entries(path))


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "text\n", json.dumps({"title": "x", "format": 1}) + "\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text)
    with pytest.raises(InvalidRequest, match="is not an undo list"):
        read_run(tmp_path / "other")
