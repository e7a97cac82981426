"""Owns the decision whether a figure grows.

The slope is the median of the slopes of all pairs of samples (Theil and Sen), which peaks, such as those of a
resharding or a backup, do not move, with its interval of 95 %. A figure grows if the whole interval is above the
tolerance per hour, and if the growth over the samples is above a floor: a run of a minute cannot tell a leak from
a cache that fills."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from tests.soak.samples import Series

MIN_SAMPLES = 10
# A process that lived for a smaller share of the time after the warm-up is not judged.
MIN_SHARE = 0.5
_MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A figure and what counts as flat.

    Attributes:
        title: The figure's name in plots.
        unit: The unit of `scale`.
        scale: How many of the samples' units are one `unit`.
        tolerance: The slope that is tolerated, in `unit` per hour.
        floor: The growth over all samples that is tolerated, in `unit`.
    """

    title: str
    unit: str
    scale: int
    tolerance: float
    floor: float


FIGURES = {
    "rss": Figure("resident memory (RSS)", "MiB", _MIB, 4, 32),
    # It also grows when another process that shares libraries ends.
    "pss": Figure("proportional memory (PSS)", "MiB", _MIB, 4, 128),
    "files": Figure("open files", "files", 1, 2, 10),
    "threads": Figure("threads", "threads", 1, 1, 6),
    "disk": Figure("disk space", "MiB", _MIB, 8, 32),
    "wal": Figure("write-ahead logs", "MiB", _MIB, 8, 32),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Slope:
    """The slope of one figure of one series, in the figure's unit per hour. low, high: its interval of 95 %.
    growth: the slope times the duration of the samples, in the figure's unit."""

    name: str
    figure: str
    per_hour: float
    low: float
    high: float
    growth: float

    @property
    def grows(self) -> bool:
        figure = FIGURES[self.figure]
        return self.low > figure.tolerance and self.growth > figure.floor

    def __str__(self) -> str:
        figure = FIGURES[self.figure]
        return (
            f"{self.name:<26} {self.figure:<8} {self.per_hour:+10.2f} {figure.unit}/h"
            f" ({self.low:+.2f} to {self.high:+.2f}; tolerated {figure.tolerance:g}/h or {figure.floor:g} in all)"
            f" {'GROWS' if self.grows else 'flat'}"
        )


def slopes(series: Sequence[Series], begin: float, end: float) -> Iterator[Slope]:
    """Returns the slopes of all series that `is_judged`, over the samples from `begin` on.

    Args:
        series: The samples.
        begin: The end of the warm-up, in seconds from the start of the run.
        end: The end of the run.
    """
    for one in series:
        if is_judged(one, begin, end):
            for figure, values in one.figures.items():
                yield slope(one.name, figure, *_from(begin, one.seconds, values))


def is_judged(series: Series, begin: float, end: float) -> bool:
    """Whether a series has enough samples after the warm-up for a slope."""
    later = [seconds for seconds in series.seconds if seconds >= begin]
    return len(later) >= MIN_SAMPLES and later[-1] - later[0] >= MIN_SHARE * (end - begin)


def slope(name: str, figure: str, seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Returns the slope of a figure.

    Args:
        name: The series' name.
        figure: A key of FIGURES.
        seconds: When each sample was taken, ascending.
        values: The samples, in bytes or as numbers, one for each time.
    """
    hours = np.asarray(seconds, np.float64) / 3_600
    scaled = np.asarray(values, np.float64) / FIGURES[figure].scale
    found = stats.theilslopes(scaled, hours, 0.95)
    growth = float(found.slope) * float(hours[-1] - hours[0])
    return Slope(name, figure, float(found.slope), float(found.low_slope), float(found.high_slope), growth)


def _from(begin: float, seconds: Sequence[float], values: Sequence[int]) -> tuple[Sequence[float], Sequence[int]]:
    later = [place for place, second in enumerate(seconds) if second >= begin]
    return [seconds[place] for place in later], [values[place] for place in later]
