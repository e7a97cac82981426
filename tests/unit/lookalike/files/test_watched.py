"""Values of files: what counts as a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.files import watched
from lookalike.files.watched import Watched
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
