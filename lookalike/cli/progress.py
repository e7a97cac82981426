"""Owns the progress bar of jobs over a whole collection."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Bar:
    """A one-line progress bar on standard error; it is shown only on a terminal."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, records=0)

    def start(self, title: str, total: int) -> None:
        """Starts the next step."""
        self._progress.reset(self._task, description=title, total=total, records=0)

    def close(self) -> None:
        """Removes the bar, before other output."""
        self._progress.stop()

    def completed(self, records: int, of_total: int | None = None) -> None:
        """Sets the number of records done. If the total counts something else, `of_total` is how much of it is
        done."""
        self._progress.update(self._task, completed=records if of_total is None else of_total, records=records)


@contextlib.contextmanager
def records_bar(title: str, total: int | None = None) -> Iterator[Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[records]:,} records"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield Bar(progress, title, total)
