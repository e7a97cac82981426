"""Values of files: what counts as a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.files import watched
from lookalike.files.watched import FileWatch, Watched
from lookalike.model.errors import CannotStart


def test_file_that_becomes_readable_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when root rotates keys and then changes the file's owner."""
    monkeypatch.setattr(watched, "POLL_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text("old")

    def read() -> str:
        # Tests may run as root, which can read any file.
        if not file.stat().st_mode & 0o400:
            raise CannotStart(f"{file} cannot be read")
        return file.read_text()

    watched_file = Watched([file], read)
    file.write_text("new")
    file.chmod(0o000)
    assert watched_file.value == "old"
    file.chmod(0o600)
    assert watched_file.value == "new"


def test_change_of_content_is_noticed_once(tmp_path: Path) -> None:
    file, missing = tmp_path / "a", tmp_path / "b"
    file.write_text("1")
    watch = FileWatch([file, missing])
    assert not watch.changed()
    file.write_text("2")
    assert watch.changed()
    assert not watch.changed()
    missing.write_text("new")
    assert watch.changed()
    missing.unlink()
    assert watch.changed()


def test_change_within_the_clocks_resolution_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes of the same size within one tick leave the same change time, size and inode."""
    file = tmp_path / "a"
    file.write_text("1")
    status = file.stat()
    monkeypatch.setattr(Path, "stat", lambda path: status)
    watch = FileWatch([file])
    file.write_text("2")
    assert watch.changed()


def test_forgotten_state_counts_as_a_change(tmp_path: Path) -> None:
    watch = FileWatch([tmp_path / "a"])
    watch.forget()
    assert watch.changed()
    assert not watch.changed()


def test_unreadable_change_keeps_the_last_value_and_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched, "POLL_SECONDS", 0.0)
    file = tmp_path / "secret"
    file.write_text("old")

    def read() -> str:
        if not file.exists():
            raise CannotStart("secret: is missing")
        return file.read_text()

    watched_file = Watched([file], read)
    file.unlink()
    assert [watched_file.value for _ in range(3)] == ["old"] * 3
    assert caplog.text.count("a changed file is not applied: secret: is missing") == 1
    file.write_text("new")
    assert watched_file.current_generation == 2
    assert watched_file.value == "new"
