"""The results of a run in its output folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.evaluation.measured import CSV_FILE, JSON_FILE, MEASURED_FILE, Measured
from lab.evaluation.plan import Details, Result, Row
from lookalike.model.errors import CannotStart

SETTINGS: dict[str, Any] = {"bits": [64], "data set": "a digest"}
OF = ("a network", "pooled", 0)


def result(bits: int, details: Details | None = None) -> Result:
    return Result(
        Row("photos", "all", *OF[:2], bits, "lsh", "hamming", 0, 5, 1 / 3, 0.5, None, 1_000, search_ms=0.1),
        details,
    )


def key(bits: int) -> tuple[str, str, int, str]:
    return "a network", "lsh", bits, "hamming"


def write(folder: Path, *widths: int) -> None:
    with Measured(folder, SETTINGS) as measured:
        for bits in widths:
            measured.add(OF, result(bits))


def test_each_row_is_in_every_file_as_soon_as_it_is_added(tmp_path: Path) -> None:
    with Measured(tmp_path, SETTINGS) as measured:
        for count, bits in enumerate((16, 32, 64), 1):
            measured.add(OF, result(bits))
            rows = [json.loads(line) for line in (tmp_path / JSON_FILE).read_text().splitlines()]
            assert [row["bits"] for row in rows] == [16, 32, 64][:count]
            with (tmp_path / CSV_FILE).open(newline="") as file:
                assert [row["map5"] for row in csv.DictReader(file)] == ["0.333333"] * count
        measured.write_results([result(bits).row for bits in (16, 32, 64)])
        assert [json.loads(line) for line in (tmp_path / JSON_FILE).read_text().splitlines()] == rows


def test_results_are_the_same_after_resuming(tmp_path: Path) -> None:
    confusion = np.array([[3, 0], [1, 2]])
    details = Details(np.linspace(0, 1 / 3, 101), confusion, np.array([[4, 7], [1, 2]]))
    with Measured(tmp_path, SETTINGS) as measured:
        measured.add(OF, result(16, details))
        measured.add(OF, result(32))
        measured.finish(OF, ["itq: too few images"])
    with Measured(tmp_path, SETTINGS) as measured:
        assert (measured.earlier, measured.changed) == (2, [])
        found = measured.take(OF, key(16))
        assert found is not None
        assert found.is_earlier
        assert found.row == result(16).row
        assert found.details is not None
        assert np.array_equal(found.details.precisions, details.precisions)
        assert np.array_equal(found.details.confusion, confusion)
        assert np.array_equal(found.details.nearest, details.nearest)
        assert measured.take(OF, key(16)) is None, "each result is used once"
        assert measured.take(("a network", "pooled", 1), key(32)) is None
        finished = measured.take_finished(OF)
        assert finished is not None
        assert [found.row.bits for found in finished[0]] == [32]
        assert finished[1] == ["itq: too few images"]


def test_a_file_that_is_cut_anywhere_keeps_its_whole_rows(tmp_path: Path) -> None:
    write(tmp_path, 16, 32)
    content = (tmp_path / MEASURED_FILE).read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in (0, 1, ends[0] - 1, ends[0], ends[1] - 1, ends[1], ends[1] + 1, ends[2] - 1, ends[2]):
        (tmp_path / MEASURED_FILE).write_bytes(content[:cut])
        with Measured(tmp_path, SETTINGS) as measured:
            assert measured.earlier == sum(end <= cut for end in ends[1:])
            assert measured.changed == []
            for bits in (16, 32):
                if measured.take(OF, key(bits)) is None:
                    measured.add(OF, result(bits))
        assert (tmp_path / MEASURED_FILE).read_bytes() == content


def test_changed_settings_are_named_and_drop_the_rows_with_the_first_new_one(tmp_path: Path) -> None:
    write(tmp_path, 16, 32)
    before = (tmp_path / MEASURED_FILE).read_bytes()
    with Measured(tmp_path, {**SETTINGS, "bits": [128], "k": 3}) as measured:
        assert (measured.earlier, measured.changed) == (0, ["bits", "k"])
    assert (tmp_path / MEASURED_FILE).read_bytes() == before, "a run that fails early destroys nothing"
    with Measured(tmp_path, {**SETTINGS, "bits": [128]}) as measured:
        measured.add(OF, result(128))
    assert [json.loads(line)["bits"] for line in (tmp_path / JSON_FILE).read_text().splitlines()] == [128]
    with Measured(tmp_path, SETTINGS) as measured:
        assert measured.changed == ["bits"]


def test_a_file_of_another_format_is_replaced(tmp_path: Path) -> None:
    (tmp_path / MEASURED_FILE).write_text("notes\n")
    write(tmp_path, 16)
    with Measured(tmp_path, SETTINGS) as measured:
        assert measured.earlier == 1


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path) -> None:
    with Measured(tmp_path, SETTINGS), pytest.raises(CannotStart, match="output: another process writes to"):
        Measured(tmp_path, SETTINGS)
    write(tmp_path, 16)


def test_without_a_folder_nothing_is_kept() -> None:
    with Measured(None, SETTINGS) as measured:
        measured.add(OF, result(16))
        measured.finish(OF, [])
        measured.write_results([result(16).row])
        assert measured.take(OF, key(16)) is None
