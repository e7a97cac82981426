"""Owns the progress of long jobs: bars on standard error if that is a terminal, otherwise lines of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# A line appears after this many seconds, or after this share of a phase.
_LINE_SECONDS, _LINE_SHARE = 10.0, 0.1
# Short phases would otherwise print ten lines at once.
_LEAST_SECONDS = 1.0
# The steps of a phase may take minutes, so that a shorter average would have no value.
_SPEED_SECONDS = 3_600.0


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


def progress_bar(
    as_json: bool, unit: str | None = "images", is_transient: bool = False, speed_seconds: float = 30.0
) -> Progress:
    """A bar for each task.

    Args:
        as_json: Whether the command prints JSON; then there is no bar.
        unit: What the rate counts; None for no rate.
        is_transient: Remove the bar at the end.
        speed_seconds: The time left is computed from the speed in these last seconds.
    """
    rate = () if unit is None else (_Rate(unit),)
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *rate,
        TextColumn("left"), TimeRemainingColumn(), speed_estimate_period=speed_seconds,
        console=Console(stderr=True), disable=as_json or not sys.stderr.isatty(), transient=is_transient,
    )  # fmt: skip


class PhaseLines:
    """Decides which progress of work in phases is worth a line: the start of a phase, each tenth of it, and what
    is done after ten seconds without a line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = ""
        self._started = self._said = (0.0, 0)

    def line(self, phase: str, done: int, total: int, note: str = "") -> str | None:
        """Returns the line for this progress; None if it is not worth one. total: 0 if it is not known."""
        now, (said, said_done) = self._clock(), self._said
        if phase != self._phase or done < said_done:
            self._phase, self._started = phase, (now, done)
        else:
            is_tenth = done - said_done >= _LINE_SHARE * total and now - said >= _LEAST_SECONDS
            if done == said_done or not (is_tenth or now - said >= _LINE_SECONDS):
                return None
        self._said = (now, done)
        what = f"{phase}, {note}" if note else phase
        if not total:
            return what
        return f"{what}: {done:,} of {total:,} ({100 * done // total} %){self._left(now, done, total)}"

    def _left(self, now: float, done: int, total: int) -> str:
        since, first = self._started
        if done <= first or done >= total:
            return ""
        return f", {duration((now - since) / (done - first) * (total - done))} left"


def duration(seconds: float) -> str:
    """A number of seconds for people, such as 48 s, 5 min or 2 h 10 min."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class PhaseBar:
    """One bar for work in phases; a context manager. Each phase replaces the one before. Off a terminal, lines on
    standard error."""

    def __init__(self, as_json: bool) -> None:
        self._bar = progress_bar(as_json, unit=None, is_transient=True, speed_seconds=_SPEED_SECONDS)
        self._task = self._bar.add_task("", total=None)
        self._phase = ""
        self._lines = PhaseLines() if self._bar.disable and not as_json else None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Shows how much of a phase is done. total: 0 if it is not known. note: what is at work now."""
        if phase != self._phase:
            self._phase = phase
            self._bar.remove_task(self._task)
            self._task = self._bar.add_task(phase, total=None)
        description = f"{phase}, {note}" if note else phase
        self._bar.update(self._task, description=description, completed=done, total=total or None)
        if self._lines and (line := self._lines.line(phase, done, total, note)):
            print(line, file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        """Prints a line of results to standard output. The bar makes way for it, because both may be on one
        terminal."""
        self._bar.stop()
        print(text, flush=True)
        self._bar.start()
