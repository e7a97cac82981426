"""One supervised process: how it ends, and how its restarts are spaced."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.folder import DataFolder
from lookalike.local.process import RESTART_BASE_SECONDS, STEADY_SECONDS, Process, stop


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path)
    folder.claim(ephemeral_config(tmp_path, 1))
    folder.release()
    return folder


def ended(process: Process, folder: DataFolder) -> int:
    process.start(folder)
    assert process.popen is not None
    return process.popen.wait(60)


def test_ended_process_is_described_by_its_log_and_restarted_with_growing_delays(folder: DataFolder) -> None:
    process = Process("broken", ["no_such_module"], "127.0.0.1:1", None)
    folder.log_file("broken").write_text("error: of an earlier run\n")
    code = ended(process, folder)
    assert process.last_words(folder, code) == f"exit code 1, see {folder.log_file('broken')}"
    with folder.log_file("broken").open("a") as log:
        log.write("error: port: is in use\n")
    assert process.last_words(folder, code) == "port: is in use"
    base = RESTART_BASE_SECONDS
    assert base <= process.note_ended(time.monotonic()) <= 2 * base
    ended(process, folder)
    assert 2 * base <= process.note_ended(time.monotonic()) <= 4 * base
    ended(process, folder)
    process.note_running(time.monotonic() + 2 * STEADY_SECONDS)
    assert base <= process.note_ended(time.monotonic()) <= 2 * base


def test_stopped_process_leaves_no_pid_file(folder: DataFolder) -> None:
    process = Process("quiet", ["asyncio"], "127.0.0.1:1", None)
    process.start(folder)
    assert folder.pid_file("quiet").exists()
    stop([process], folder)
    assert process.exit_code() is not None
    assert not folder.pid_file("quiet").exists()
