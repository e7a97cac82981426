"""`lookalike bench` and `lookalike plan` end to end on few codes: output, plots and invalid input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.test_cli import document, failure, run

QUICK = ("--megabytes", 1, "--seconds", 0.01)


def test_bench_prints_one_json_line_per_figure() -> None:
    result = run("bench", "scan", "flood", "--bits", "64,256", *QUICK, "--json")
    assert result.returncode == 0, result.stderr
    first, *lines = (json.loads(line) for line in result.stdout.splitlines())
    assert "processor" in first
    scans = [line for line in lines if line["what"] == "scan"]
    assert [(line["bits"], line["queries"]) for line in scans] == [
        (b, q) for b in (64, 256) for q in (1, 4, 16, 64)
    ]
    assert all(line["memory_share"] > 0 and line["beside"] == "FAISS IndexBinaryFlat" for line in scans)
    assert len(lines) > len(scans)


def test_bench_plots_the_measured_figures(tmp_path: Path) -> None:
    result = run("bench", "batch", *QUICK, "--plots", tmp_path / "plots")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "plots" / "batch.png").read_bytes().startswith(b"\x89PNG")
    assert "lookalike bench" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "speed"), "part: unknown value 'speed'; use scan"),
        (("bench", "--bits", "a"), "is not a list of numbers"),
        (("bench", "--bits", "100"), "bits: 100 is not a multiple of 64"),
        (("plan", "--images", 1e9, "--bits", 100), "bits: 100 is not a multiple of 8"),
    ],
)
def test_invalid_input_is_a_one_line_error(arguments: tuple[object, ...], words: str) -> None:
    assert words in failure(*arguments)


def test_plan_has_room_for_all_images() -> None:
    made = document("plan", "--images", 1e8, "--bits", 64, "--memory-gb", 4, "--cores", 4)
    assert made["partitions"] * made["rows_per_partition"] >= 1e8
    assert "Reasoning:" in run("plan", "--images", 1e6, "--bits", 64).stdout
