"""Runs four benchmarks briefly, on few rows. None of them starts Ray or torch."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.__main__ import main

TINY = ("--rows", "20000", "--seconds", "0.1", "--rounds", "1")


@pytest.mark.parametrize("name", ["dedup", "replicas", "scroll", "system"])
def test_a_benchmark_prints_its_figures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, *TINY])
    main()
    machine, *figures = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert machine["processor"]
    assert figures
    assert {figure["benchmark"] for figure in figures} == {name}
