"""The targets of the Makefile that the documents name run, with options that make them short. test_chaos_short.py
runs `make chaos`, test_alerts.py `make runbooks`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.deploy.render import copied
from tests.docs.blocks import ROOT
from tests.docs.makefile import make


def test_help_lists_each_target_that_is_explained(tmp_path: Path) -> None:
    explained = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [line.split()[0] for line in make(tmp_path, "help").stdout.splitlines()]
    assert listed == explained != []


def test_bench_plots_in_the_documents(tmp_path: Path) -> None:
    # The target adds --plots docs/benchmarks.
    done = make(tmp_path, "bench", "ARGS=batch --bits 64 --megabytes 1 --seconds 0.01")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "benchmarks" / "batch.png").read_bytes().startswith(b"\x89PNG")


def test_soak_samples_and_plots(tmp_path: Path) -> None:
    """It takes six seconds, too short a time to be flat: the exit code may be that of a run that is not."""
    done = make(tmp_path, "soak", "HOURS=0.0016", "ARGS=--records 200 --pause 0.2 --replicas 1")
    assert "error:" not in done.stderr.replace("make: ***", ""), done.stderr
    assert done.stdout.splitlines()[-1] in ("flat", "FAILED"), done.stdout + done.stderr
    assert re.search(r"\d+ slopes, after \d+ s of \d+ s", done.stdout), done.stdout
    assert (tmp_path / "soak" / "rss.png").read_bytes().startswith(b"\x89PNG")


def test_manifests_are_those_in_the_repository(tmp_path: Path) -> None:
    deploy = copied(tmp_path)
    generated = [*deploy.glob("*/*/shards.yaml"), *deploy.glob("*/*/*/shards.yaml"), *deploy.rglob("rules.yaml")]
    assert len(generated) == 5
    before = {file: file.read_text() for file in generated}
    for file in generated:
        first = before[file].partition("\n")[0]
        file.write_text("spec:\n" if file.name == "rules.yaml" else f"{first}\n")
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = make(tmp_path, "manifests")
    assert done.returncode == 0, done.stderr
    changed = [file for file in generated if file.name != "rules.yaml" and file.read_text() != before[file]]
    assert not changed
    (rules,) = deploy.rglob("rules.yaml")
    assert "LookalikeProcessDown" in rules.read_text()
