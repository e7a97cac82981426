"""The soak run end to end: a short one of a correct cluster is flat, and one whose process ends is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.soak.slopes import FIGURES

TINY = ("--records", "500", "--pause", "0.4", "--replicas", "1")


def soak(output: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.soak", "--output", output, *TINY, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.timeout(600)
def test_a_short_run_of_a_correct_cluster_is_flat(tmp_path: Path) -> None:
    with soak(tmp_path, "--minutes", "1") as process:
        printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    assert printed.splitlines()[-1] == "flat"
    for figure in FIGURES:
        assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    names = {sample["name"].partition(" ")[0] for sample in samples}
    assert names >= {"coordinator", "shard-r0-0", "shard-r0-1", "shard-r0-2", "r0-0/", "r0-2/", "backups/"}
    judged = {
        (line.split()[0], figure) for line in printed.splitlines() for figure in FIGURES if f" {figure} " in line
    }
    assert judged >= {
        (name, figure) for name in ("coordinator", "shard-r0-0") for figure in ("rss", "files", "threads")
    }
    assert ("r0-0/", "wal") in judged


@pytest.mark.timeout(600)
def test_a_process_that_ends_fails_the_run(tmp_path: Path) -> None:
    with soak(tmp_path, "--minutes", "60") as process:
        samples = tmp_path / "samples.jsonl"
        wait_until(lambda: samples.exists() and samples.read_text().count("shard-r0-0") > 3, 60)
        os.kill(int((tmp_path / "data" / "run" / "shard-r0-0.pid").read_text()), signal.SIGKILL)
        assert process.stdout is not None
        while " ended: signal SIGKILL" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    assert "FAILED: processes ended 1 times" in printed
    assert printed.splitlines()[-1] == "FAILED"
