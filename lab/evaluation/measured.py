"""Owns the results of a run while it runs, in memory and in the output folder: `results.csv` and `results.jsonl`,
which grow with each row, and `measured.jsonl`, from which a later run with the same settings resumes.

The first line of measured.jsonl holds the settings. Each other line holds a result, or says that a set (a model,
a layer and a seed) is finished. A killed process leaves whole lines and at most one cut line, which is removed."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from lab.evaluation.plan import Details, Result, Row
from lookalike.files.atomic import write_bytes
from lookalike.model.errors import CannotStart

CSV_FILE, JSON_FILE, MEASURED_FILE = "results.csv", "results.jsonl", "measured.jsonl"

SetKey = tuple[str, str, int]  # model, layer, seed


class Measured:
    """The results of a run, and those of an earlier run with the same settings; a context manager.

    The folder is unchanged until the first new result, so that a run that fails before it destroys nothing.

    Attributes:
        earlier: The number of rows that the earlier run measured.
        changed: The names of the settings that differ from those of the earlier run, whose results are then
            dropped; empty if there was none or none differs.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        """Reads what an earlier run measured, and keeps other runs from the folder.

        Args:
            folder: The output folder, which exists; None to keep nothing.
            settings: All that decides a row, as JSON values by name.

        Raises:
            CannotStart: If another process writes to the folder.
        """
        self._folder = folder
        self._settings = json.loads(json.dumps(settings))
        self._results: dict[SetKey, list[Result]] = {}
        self._finished: dict[SetKey, list[str]] = {}
        self._whole_bytes = 0
        self._log: IO[bytes] | None = None
        self.changed: list[str] = []
        self._lock = None if folder is None else _lock(folder)
        if folder is not None and (folder / MEASURED_FILE).is_file():
            self._read((folder / MEASURED_FILE).read_bytes())
        # The results are taken one after the other before the files are written.
        self._earlier_rows = [result.row for results in self._results.values() for result in results]
        self.earlier = len(self._earlier_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            os.close(self._lock)

    def take(self, of: SetKey, row: tuple[str, str, int, str]) -> Result | None:
        """Returns and forgets the earlier run's result for a set and a row's (model, method, bits, score); None
        if there is none."""
        results = self._results.get(of, [])
        for number, result in enumerate(results):
            found = result.row
            if (found.model, found.method, found.bits, found.score) == row:
                return results.pop(number)
        return None

    def take_finished(self, of: SetKey) -> tuple[list[Result], list[str]] | None:
        """Returns all results of a set that the earlier run finished, and what it left out; None if it did not
        finish the set."""
        if of not in self._finished:
            return None
        return self._results.pop(of, []), self._finished[of]

    def add(self, of: SetKey, result: Result) -> None:
        """Writes a result that was just measured."""
        if self._folder is None:
            return
        self._append({"set": of, "row": dataclasses.asdict(result.row), "details": _details_to(result.details)})
        line = result.row.short()
        with (self._folder / CSV_FILE).open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, list(line)).writerow(line)
        with (self._folder / JSON_FILE).open("a", encoding="utf-8") as file:
            file.write(_json_line(line))

    def finish(self, of: SetKey, left_out: Sequence[str]) -> None:
        """Notes that all rows of a set are there."""
        if self._folder is not None and of not in self._finished:
            self._append({"finished": of, "left_out": left_out})

    def write_results(self, rows: Sequence[Row]) -> None:
        """Replaces results.csv and results.jsonl by these rows."""
        if self._folder is None:
            return
        lines = [row.short() for row in rows]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(lines)
        write_bytes(self._folder / CSV_FILE, text.getvalue().encode())
        write_bytes(self._folder / JSON_FILE, "".join(map(_json_line, lines)).encode())

    def _read(self, content: bytes) -> None:
        for line, document in _whole_lines(content):
            if "settings" in document:
                found = document["settings"]
                names = found.keys() | self._settings.keys()
                self.changed = sorted(name for name in names if found.get(name) != self._settings.get(name))
                if self.changed:
                    return
            elif "finished" in document:
                self._finished[_set_key(document["finished"])] = document["left_out"]
            else:
                details = _details_from(document["details"])
                result = Result(Row(**document["row"]), details, is_earlier=True)
                self._results.setdefault(_set_key(document["set"]), []).append(result)
            self._whole_bytes += len(line)

    def _append(self, document: Mapping[str, Any]) -> None:
        if self._log is None:
            self._log = self._started()
        self._log.write(json.dumps(document).encode() + b"\n")
        self._log.flush()

    def _started(self) -> IO[bytes]:
        """Cuts the file after the earlier run's last whole line, or begins it, and writes the earlier rows to the
        files of results."""
        assert self._folder is not None
        log = (self._folder / MEASURED_FILE).open("ab")
        log.truncate(self._whole_bytes)
        if not self._whole_bytes:
            log.write(json.dumps({"settings": self._settings}).encode() + b"\n")
        self.write_results(self._earlier_rows)
        return log


def _lock(folder: Path) -> int:
    """Locks a folder until the returned descriptor is closed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CannotStart(f"output: another process writes to {folder}; wait for it, or name another") from None
    return descriptor


def _whole_lines(content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines up to the first that is cut or is not of this file's format."""
    found: list[tuple[bytes, dict[str, Any]]] = []
    for line in content.splitlines(keepends=True):
        try:
            document = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            document = None
        if not isinstance(document, dict) or ("settings" in document) != (not found):
            break
        found.append((line, document))
    return found


def _set_key(value: Sequence[Any]) -> SetKey:
    model, layer, seed = value
    return str(model), str(layer), int(seed)


def _json_line(line: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in line.items() if value is not None}) + "\n"


def _details_to(details: Details | None) -> dict[str, Any] | None:
    """Details as JSON values. Of the confusion matrix, only the elements that are not 0."""
    if details is None:
        return None
    confusion = None
    if details.confusion is not None:
        rows, columns = np.nonzero(details.confusion)
        counts = details.confusion[rows, columns]
        confusion = [len(details.confusion), rows.tolist(), columns.tolist(), counts.tolist()]
    return {
        "precisions": details.precisions.tolist(), "confusion": confusion, "nearest": details.nearest.tolist()
    }  # fmt: skip


def _details_from(document: Mapping[str, Any] | None) -> Details | None:
    if document is None:
        return None
    confusion = None
    if document["confusion"] is not None:
        classes, rows, columns, counts = document["confusion"]
        confusion = np.zeros((classes, classes), np.int64)
        confusion[rows, columns] = counts
    return Details(np.array(document["precisions"]), confusion, np.array(document["nearest"], np.int64))
