"""`make chaos` end to end: a short run finds no violation in a correct cluster, and detects a planted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chaos.verdict import VIOLATIONS
from tests.docs.makefile import make


def _chaos(folder: Path, *options: str, seconds: int = 5) -> tuple[int, dict[str, Any], str]:
    """Exit code, verdict, and all that was printed."""
    done = make(folder, "chaos", f"SECONDS={seconds}", "SEED=1", f"ARGS={' '.join(options)}")
    printed = done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("{"), printed
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), printed


def test_a_short_chaos_run_finds_no_violation(tmp_path: Path) -> None:
    code, verdict, printed = _chaos(tmp_path, "--without", "reshard", seconds=10)
    assert code == 0, printed
    assert {str(kind): verdict[str(kind)] for kind in VIOLATIONS} == {str(kind): 0 for kind in VIOLATIONS}
    assert verdict["unread"] == 0
    assert verdict["settled"]
    assert verdict["faults"] >= 2
    assert verdict["acknowledged"] > 200
    assert verdict["searches"] > 50
    assert verdict["search_availability"] > 0.5
    assert verdict["write_availability"] > 0.5
    # The rarer kinds of writes may be left out in so short a run.
    answered = {operation for operation, count in verdict["operations"].items() if count}
    assert answered >= {"exists", "count", "facets", "scroll", "rerank"}
    assert answered >= {"set", "set-matching", "upsert-if", "shared-set", "shared-if"}


def test_chaos_detects_a_planted_loss(tmp_path: Path) -> None:
    code, verdict, printed = _chaos(tmp_path, "--plant", "lose", "--without", "reshard")
    assert code == 2, printed  # make's, for the 1 of the run
    assert verdict["lost"] > 0
    assert "VIOLATION lost" in printed


def test_chaos_detects_a_planted_change_of_attributes(tmp_path: Path) -> None:
    code, verdict, printed = _chaos(tmp_path, "--plant", "change", "--without", "reshard")
    assert code == 2, printed  # make's, for the 1 of the run
    assert verdict["corrupted"] > 0
    assert "VIOLATION corrupted" in printed
