"""Values of files: what counts as a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.files import watched
from lookalike.files.watched import Watched
from lookalike.model.errors import CannotStart


def test_a_file_that_may_be_read_at_last_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when root rotated keys and then gave the file to who reads it."""
    monkeypatch.setattr(watched, "POLL_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text("old")

    def read() -> str:
        # Root, as whom tests may run, is kept from nothing.
        if not file.stat().st_mode & 0o400:
            raise CannotStart(f"{file} cannot be read")
        return file.read_text()

    watching = Watched([file], read)
    file.write_text("new")
    file.chmod(0o000)
    assert watching.value == "old"
    file.chmod(0o600)
    assert watching.value == "new"
