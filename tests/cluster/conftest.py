"""Owns the fixture that runs a batch job inside the test process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from encoder.ingest.command import ingest
from tests.conftest import Cluster


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; returns its summary and the lines of its dead letters."""

    def run(*paths: Path | str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        letters = options.pop("dead_letters", tmp_path / "dead.jsonl")
        capsys.readouterr()
        ingest(
            [str(path) for path in paths], server=cluster.address, dead_letters=letters, as_json=True, **options
        )
        summary = json.loads(capsys.readouterr().out)
        return summary, [json.loads(line) for line in letters.read_text().splitlines()]

    return run
