"""Owns the progress bars of long jobs. They are shown on standard error, if that is a terminal."""

from __future__ import annotations

import sys
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


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


def progress_bar(as_json: bool, unit: str | None = "images", is_transient: bool = False) -> Progress:
    """A bar for each task.

    Args:
        as_json: Whether the command prints JSON; then there is no bar.
        unit: What the rate counts; None for no rate.
        is_transient: Remove the bar at the end.
    """
    rate = () if unit is None else (_Rate(unit),)
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *rate,
        TextColumn("left"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=as_json or not sys.stderr.isatty(), transient=is_transient,
    )  # fmt: skip


class PhaseBar:
    """One bar for work in phases; a context manager. Each phase replaces the one before."""

    def __init__(self, as_json: bool) -> None:
        self._bar = progress_bar(as_json, unit=None, is_transient=True)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=phase, completed=done, total=total)
