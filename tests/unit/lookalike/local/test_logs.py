"""The logs of supervised processes stay small while the processes write."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lookalike.local import logs, supervisor
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.folder import DataFolder
from lookalike.local.logs import rotate
from lookalike.local.process import Process, stop
from tests.conftest import Cluster, wait_until

MAX_BYTES = 20_000
_COUNTING = "import itertools\nfor number in itertools.count():\n    print(f'{number:09d}', flush=True)\n"


def older(log: Path) -> list[Path]:
    return sorted(log.parent.glob(f"{log.name}.*"))


def test_a_small_or_missing_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert not rotate(log, 10)
    log.write_text("short")
    assert not rotate(log, 10)
    assert log.read_text() == "short"
    assert older(log) == []


def test_the_last_older_logs_are_kept_in_order(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for number in range(5):
        log.write_text(f"{number}" * 10)
        assert rotate(log, 10, keep=3)
        assert log.read_text() == ""
    assert {file.name: file.read_text() for file in older(log)} == {
        "a.log.1": "4" * 10,
        "a.log.2": "3" * 10,
        "a.log.3": "2" * 10,
    }


def test_a_process_continues_in_the_emptied_log(tmp_path: Path) -> None:
    log = tmp_path / "counting.log"
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-c", _COUNTING], stdout=file) as process:
        rotations = 0
        deadline = time.monotonic() + 60
        while rotations < 5 and time.monotonic() < deadline:
            rotations += rotate(log, MAX_BYTES, keep=9)
        process.kill()
    assert rotations == 5
    files = [*reversed(older(log)), log]
    assert len(files) == 6
    # A file that was written at the old position would begin with zero bytes.
    numbers = [int(line) for file in files for line in file.read_text().splitlines() if len(line) == 9]
    assert numbers == sorted(set(numbers))
    # Lines are lost only between the copy and the truncation, if at all.
    gaps = [b - a - 1 for a, b in itertools.pairwise(numbers) if b != a + 1]
    assert len(gaps) <= rotations
    assert sum(gaps) < 0.1 * numbers[-1]


def test_a_log_that_cannot_be_copied_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * MAX_BYTES)
    program = "import pathlib, sys; from lookalike.local.logs import rotate; rotate(pathlib.Path(sys.argv[1]), 10)"
    (tmp_path / "a.log.1").write_text("older")
    command = f'ulimit -f 1; exec "{sys.executable}" -c "{program}" "{log}"'
    for _ in range(5):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert "File too large" in done.stderr
        assert log.stat().st_size == MAX_BYTES
        assert [(file.name, file.read_text()) for file in older(log)] == [("a.log.2", "older")]


def test_the_supervisor_limits_the_logs_of_running_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOGS_POLL_SECONDS", 0.1)
    monkeypatch.setattr(logs.rotate, "__defaults__", (300, 2))
    config = ephemeral_config(tmp_path, 1).model_copy(update={"log_level": "debug"})
    cluster = Cluster(config, tmp_path)
    try:
        cluster.start()
        log = tmp_path / "logs" / "coordinator.log"
        with cluster.client() as client:

            def has_rotated_twice() -> bool:
                client.list_collections()  # one line in the log
                return len(older(log)) == 2

            wait_until(has_rotated_twice, 30)
            client.list_collections()
            wait_until(lambda: "ListCollections" in log.read_text() + older(log)[0].read_text(), 10)
    finally:
        cluster.stop()
    assert cluster.reports == []


def test_the_last_error_is_found_after_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DataFolder(tmp_path)
    folder.claim(ephemeral_config(tmp_path, 1))
    process = Process("broken", ["no_such_module"], "127.0.0.1:1", None)
    log = folder.log_file("broken")
    log.write_text("x" * 100 + "\n")
    process.start(folder)
    assert process.popen is not None
    code = process.popen.wait(60)
    monkeypatch.setattr(logs.rotate, "__defaults__", (10, 1))
    process.limit_log(folder)
    with log.open("a") as file:
        file.write("error: port: is in use\n")
    assert process.last_words(folder, code) == "port: is in use"
    stop([process], folder)
    folder.release()
