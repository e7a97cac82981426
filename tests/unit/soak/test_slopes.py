"""The soak run tells a process that leaks from one that does not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.soak.samples import Series, of_folder, of_process
from tests.soak.slopes import FIGURES, is_judged, slope, slopes

_WARM_UP_SECONDS = 1.0
_SECONDS = 5.0


def watched(folder: Path, how: str) -> list[Series]:
    """The series of a child process, and of the folder that it writes to."""
    command = [sys.executable, "-m", "tests.soak.watched_child", folder, how]
    process, disk = Series("child"), Series("folder/")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()  # it runs
            start = time.monotonic()
            while (seconds := time.monotonic() - start) < _SECONDS:
                process.add(seconds, of_process(psutil.Process(child.pid)))
                disk.add(seconds, of_folder(folder))
                # A full pipe would stop the child.
                child.stdout.read1()  # type: ignore[attr-defined]
                time.sleep(0.05)
        finally:
            child.kill()
    return [process, disk]


def test_a_child_that_leaks_fails_in_every_figure(tmp_path: Path) -> None:
    found = list(slopes(watched(tmp_path, "leak"), _WARM_UP_SECONDS, _SECONDS))
    assert {one.figure for one in found} == FIGURES.keys()
    assert [str(one) for one in found if not one.grows] == []
    assert all("GROWS" in str(one) for one in found)


def test_a_child_that_lets_go_passes_in_every_figure(tmp_path: Path) -> None:
    found = list(slopes(watched(tmp_path, "flat"), _WARM_UP_SECONDS, _SECONDS))
    assert {one.figure for one in found} == FIGURES.keys()
    assert [str(one) for one in found if one.grows] == []


def hours(count: int, length: float) -> np.ndarray:
    return np.linspace(0, 3_600 * length, count)


def test_peaks_and_noise_are_no_slope() -> None:
    rng = np.random.default_rng(0)
    seconds = hours(900, 6)
    memory = 300 * 2**20 + rng.normal(0, 5 * 2**20, len(seconds))
    memory[::20] += 400 * 2**20
    assert not slope("shard", "rss", seconds, memory).grows


@pytest.mark.parametrize(("mib_per_hour", "grows"), [(3, False), (7, True), (-50, False)])
def test_the_tolerance_decides(mib_per_hour: float, grows: bool) -> None:
    rng = np.random.default_rng(0)
    seconds = hours(900, 6)
    memory = (300 + mib_per_hour * seconds / 3_600) * 2**20 + rng.normal(0, 5 * 2**20, len(seconds))
    found = slope("shard", "rss", seconds, memory)
    assert found.per_hour == pytest.approx(mib_per_hour, abs=0.5)
    assert found.low <= found.per_hour <= found.high
    assert found.grows == grows


def test_a_short_run_needs_more_than_a_filling_cache() -> None:
    seconds = hours(60, 1 / 60)
    growth = np.linspace(0, 1, 60)
    assert not slope("shard", "rss", seconds, growth * 20 * 2**20).grows
    assert slope("shard", "rss", seconds, growth * 60 * 2**20).grows
    assert slope("shard", "files", seconds, np.floor(growth * 30)).grows


def test_a_process_that_lived_briefly_is_not_judged() -> None:
    series = Series("shard")
    for second in range(100):
        series.add(second, {"rss": second * 2**30})
    assert is_judged(series, 25, 100)
    assert not is_judged(series, 25, 400)
    assert not is_judged(series, 95, 100)
    assert list(slopes([series], 25, 400)) == []
