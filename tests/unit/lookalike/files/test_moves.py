"""Files are moved without overwriting others, whole, and once more after a crash."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lookalike.files.moves import move


@pytest.fixture(params=["links", "copies", "renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the file gets its new name: as on one file system, between two, and on one without links."""
    link = os.link

    def refuse(source: Path, target: Path, **options: Any) -> None:
        is_copy = str(source).endswith("-unfinished")
        if request.param == "renames" or (request.param == "copies" and not is_copy):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "from" / "a.jpg"
    source.parent.mkdir()
    source.write_bytes(b"picture" * 1_000)
    os.utime(source, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    return source


@pytest.mark.usefixtures("way")
def test_a_file_is_moved_with_its_time(source: Path, tmp_path: Path) -> None:
    before = source.stat()
    target = tmp_path / "to" / "deep" / "a.jpg"
    move(source, target)
    assert (target.read_bytes(), target.stat().st_mtime) == (b"picture" * 1_000, before.st_mtime)
    assert not source.exists()
    assert os.listdir(target.parent) == ["a.jpg"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("other", ["file", "folder", "link", "broken link"])
def test_nothing_is_overwritten(source: Path, tmp_path: Path, other: str) -> None:
    target = tmp_path / "b.jpg"
    match other:
        case "file":
            target.write_bytes(b"PICTURE" * 1_000)
        case "folder":
            target.mkdir()
        case "link":
            target.symlink_to(source)
        case _:
            target.symlink_to(tmp_path / "none")
    before = os.lstat(target)
    with pytest.raises(FileExistsError, match="another file is there"):
        move(source, target)
    assert (os.lstat(target), source.read_bytes()) == (before, b"picture" * 1_000)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dies_at", ["unlink", "sync"])
def test_a_move_that_was_cut_short_is_completed(
    source: Path, tmp_path: Path, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "b.jpg"
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        if dies_at == "sync":
            patch.setattr("lookalike.files.moves.sync_folder", die)
        else:
            unlink = Path.unlink
            patch.setattr(Path, "unlink", lambda path, **given: die() if path == source else unlink(path, **given))
        with pytest.raises(KeyboardInterrupt):
            move(source, target)
    assert source.read_bytes() == target.read_bytes()
    move(source, target)
    assert not source.exists()
    assert target.read_bytes() == b"picture" * 1_000
