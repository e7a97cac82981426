"""A file that is replaced is there whole or as it was, for whoever could read it before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lookalike.files.atomic import atomic_write


def test_until_the_block_is_done_the_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with atomic_write(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
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


def test_of_two_that_write_at_once_the_last_to_end_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as first:
        first.write(b"first")
        with atomic_write(path) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
    assert path.read_bytes() == b"first"


def test_a_new_file_has_the_mode_asked_for_and_another_keeps_its_own(tmp_path: Path) -> None:
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
