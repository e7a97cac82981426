"""Owns what a process or a folder holds at a time, and the series of these samples.

A process's figures include those of its children, such as the encoder's Ray. A folder's figures are a shard's data
or the backups; they continue when the process is restarted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import psutil

_BLOCK_BYTES = 512

Figures = Mapping[str, int]


@dataclasses.dataclass(slots=True)
class Series:
    """The samples of one process or folder, ordered by time.

    Attributes:
        name: The name of the process, with its pid, or of the folder.
        seconds: When each sample was taken, from the start of the run.
        figures: For each figure, its value in each sample.
    """

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    figures: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def add(self, seconds: float, figures: Figures) -> None:
        self.seconds.append(seconds)
        for figure, value in figures.items():
            self.figures.setdefault(figure, []).append(value)


class Samples:
    """All series of a run. Each sample is also written to a file, one JSON object per line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._series: dict[str, Series] = {}

    @property
    def series(self) -> list[Series]:
        return [self._series[name] for name in sorted(self._series)]

    def take(self, seconds: float, data: Path, backups: Path) -> None:
        """Takes one sample of every process and folder of a local cluster.

        Args:
            seconds: The time since the start of the run.
            data: The cluster's data folder.
            backups: The folder of its backups.
        """
        for name, pid in _pids(data):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just been stopped
                figures = of_process(psutil.Process(pid))
                if figures["rss"]:  # it is being stopped otherwise, and its memory is gone
                    self._add(f"{name} ({pid})", seconds, figures)
        for folder in [*data.glob("r*-*"), backups]:
            self._add(f"{folder.name}/", seconds, of_folder(folder))

    def _add(self, name: str, seconds: float, figures: Figures) -> None:
        self._series.setdefault(name, Series(name)).add(seconds, figures)
        self._file.write(json.dumps({"name": name, "seconds": round(seconds, 3), **figures}) + "\n")
        self._file.flush()


def _pids(data: Path) -> Iterator[tuple[str, int]]:
    for file in sorted((data / "run").glob("*.pid")):
        with contextlib.suppress(FileNotFoundError):
            yield file.stem, int(file.read_text())


def of_process(process: psutil.Process) -> Figures:
    """What a process and its children hold: resident memory and its proportional share in bytes, open files and
    threads. Raises psutil.NoSuchProcess if the process has ended."""
    total = _of_one(process)
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            for figure, value in _of_one(child).items():
                total[figure] += value
    return total


def _of_one(process: psutil.Process) -> dict[str, int]:
    memory = process.memory_full_info()
    return {
        "rss": memory.rss, "pss": memory.pss, "files": process.num_fds(), "threads": process.num_threads(),
    }  # fmt: skip


def of_folder(folder: Path) -> Figures:
    """The disk space of all files below a folder, and of SQLite's write-ahead logs among them, in bytes."""
    disk = wal = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it has just been removed
            used = file.stat().st_blocks * _BLOCK_BYTES
            disk += used
            wal += used if file.name.endswith("-wal") else 0
    return {"disk": disk, "wal": wal}
