"""The soak run tells a process that leaks from one that does not."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.soak.samples import Series, of_folder, of_process
from tests.soak.slopes import FIGURES, Slope, is_judged, slope, slopes

_STEPS = 100
_MIN_SAMPLES = 30
_MAX_SECONDS = 120.0


def found_in(folder: Path, how: str) -> list[Slope]:
    """The slopes of a child process and of the folder that it writes to, over 100 steps of the child."""
    command = [sys.executable, "-m", "tests.soak.watched_child", folder, how]
    process, disk = Series("child"), Series("folder/")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert isinstance(child.stdout, io.BufferedReader)
            start, steps, seconds = time.monotonic(), 0, 0.0
            while (steps < _STEPS or len(process.seconds) < _MIN_SAMPLES) and seconds < _MAX_SECONDS:
                steps += child.stdout.read1().count(b"\n")  # waits for the next step
                seconds = time.monotonic() - start
                process.add(seconds, of_process(psutil.Process(child.pid)))
                disk.add(seconds, of_folder(folder))
        finally:
            child.kill()
    assert steps >= _STEPS
    return list(slopes([process, disk], 0.2 * seconds, seconds))


def test_a_child_that_leaks_fails_in_every_figure(tmp_path: Path) -> None:
    found = found_in(tmp_path, "leak")
    assert {one.figure for one in found} == FIGURES.keys()
    assert [str(one) for one in found if not one.grows] == []
    assert all("GROWS" in str(one) for one in found)


def test_a_child_that_lets_go_passes_in_every_figure(tmp_path: Path) -> None:
    found = found_in(tmp_path, "flat")
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


def test_the_start_of_a_process_after_the_warm_up_of_the_run_is_no_growth() -> None:
    """A resharding on a busy machine: a shard starts at 18 s of 60 s, opens its files, and lives for 23 s."""
    series = Series("shard-r0-2")
    for second in np.arange(18, 41, 0.5):
        series.add(float(second), {"files": int(20 + 2 * (second - 18))})
    assert list(slopes([series], 15, 60)) == []
    # One that lives on is judged, from the end of its own warm-up.
    for second in np.arange(41, 200, 0.5):
        series.add(float(second), {"files": 66})
    (found,) = slopes([series], 30, 200)
    assert not found.grows
