"""`lookalike evaluate` in processes of its own: killed and resumed, and where it writes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.conftest import wait_until

_ROWS_BEFORE_THE_KILL, _ROWS = 5, 14
# BLAS's threads spin while they wait for each other, which takes minutes on a busy machine.
_ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lookalike", "evaluate", *map(str, arguments)]


@pytest.fixture(scope="module")
def table(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small versions of real photographs as features, with the photograph as the label."""
    from PIL import Image

    paths = sorted(photographs.rglob("*.jpg"))
    pixels = [np.asarray(Image.open(path).convert("L").resize((16, 16)), np.float32).ravel() for path in paths]
    path = tmp_path_factory.mktemp("table") / "features.parquet"
    keys, labels = [path.name for path in paths], [path.parent.name for path in paths]
    parquet.write_table(pa.table({"key": keys, "features": pixels, "label": labels}), path)
    return path


def rows_in(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def identity(row: dict[str, Any]) -> Sequence[Any]:
    return [row[name] for name in ("seed", "method", "bits", "score")]


def test_a_killed_evaluation_loses_at_most_the_row_in_work(table: Path, tmp_path: Path) -> None:
    output, results = tmp_path / "out", tmp_path / "out" / "results.jsonl"
    # Learning codes takes a second each, so that the process is still at work when it is killed.
    made = ("--output", output, "--cache", tmp_path / "cache")
    options = (table, *made, "--bits", "16,32,64", "--methods", "lsh,csq")
    printed = tmp_path / "printed"
    with (
        printed.open("wb") as stdout,
        subprocess.Popen(command(*options), stdout=stdout, env=_ONE_THREAD) as process,
    ):
        try:
            wait_until(lambda: len(rows_in(results)) >= _ROWS_BEFORE_THE_KILL, 60)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = rows_in(results)
    assert _ROWS_BEFORE_THE_KILL <= len(before) < _ROWS
    shown = [line for line in printed.read_text().splitlines() if " column " in line]
    assert len(before) - 1 <= len(shown) <= len(before), "each row was printed when it was there"
    done = subprocess.run(
        command(*options), capture_output=True, text=True, timeout=300, check=True, env=_ONE_THREAD
    )
    said = re.search(r"measured by an earlier run: (\d+) rows; left: (\d+)", done.stderr)
    assert said is not None, done.stderr
    earlier, left = map(int, said.groups())
    # A row is noted for the next run before it is in the files of results.
    assert len(before) <= earlier <= len(before) + 1
    assert left == _ROWS - earlier
    after = rows_in(results)
    assert after[: len(before)] == before, "even the measured times are those of the killed run"
    keys = [identity(json.loads(line)) for line in after]
    assert len(keys) == len({tuple(key) for key in keys}) == _ROWS
    shown = [line for line in done.stdout.splitlines() if line.startswith("features ") and " column " in line]
    assert len(shown) == left
    assert (output / "report.html").exists()


def test_nothing_is_written_outside_the_output_and_the_cache(photographs: Path, tmp_path: Path) -> None:
    home, here, cache = tmp_path / "home", tmp_path / "here", tmp_path / "cache"
    home.mkdir()
    here.mkdir()
    environment = {
        name: value for name, value in _ONE_THREAD.items() if not name.startswith(("XDG_", "MPL", "TORCH", "HF_"))
    }
    options = (photographs, "--cache", cache, "--bits", "16", "--methods", "lsh", "--limit", "8")
    for more in ((), ("--output", tmp_path / "out")):
        done = subprocess.run(
            command(*options, *more), cwd=here, env={**environment, "HOME": str(home)}, capture_output=True,
            text=True, timeout=300, check=True,
        )  # fmt: skip
        assert list(here.iterdir()) == []
        assert list(home.iterdir()) == []
        assert ("report: " in done.stdout) == bool(more)
        assert (f"of features in {cache / 'features'}" in done.stderr) == (not more), "the second encodes nothing"
    assert {path.name for path in tmp_path.iterdir()} == {"home", "here", "cache", "out"}
    assert {path.name for path in cache.iterdir()} <= {"features", "matplotlib"}
