"""An atomic write replaces the whole file or nothing, and keeps its mode and owner."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lookalike.files.atomic import atomic_write, write_bytes


def test_file_is_unchanged_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with atomic_write(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise OSError("that was half")

    with pytest.raises(OSError, match="that was half"):
        write_half()
    assert list(tmp_path.iterdir()) == []
    path.mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_last_of_two_concurrent_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as first:
        first.write(b"first")
        with atomic_write(path) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
    assert path.read_bytes() == b"first"


def test_new_file_has_the_given_mode_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path, mode=0o600):
        pass
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o444)
    if os.geteuid() == 0:
        os.chown(path, 10001, 10002)
    before = path.stat()
    with atomic_write(path, mode=0o600):
        pass
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_file_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    path = tmp_path / "file"
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_bytes(path, b"content")
    assert synced == [(False, False), (True, True)]
    assert path.read_bytes() == b"content"
