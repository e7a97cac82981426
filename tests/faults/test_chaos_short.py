"""The chaos harness end to end: a short run finds no violation in a correct cluster, and detects a planted one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.chaos.verdict import VIOLATIONS

_TIMEOUT_SECONDS = 150


def _chaos(*options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, verdict, and all that was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("{"), printed
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), printed


def test_a_short_chaos_run_finds_no_violation() -> None:
    code, verdict, printed = _chaos("--seconds", "10", "--seed", "1", "--without", "reshard")
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


def test_chaos_detects_a_planted_loss() -> None:
    code, verdict, printed = _chaos("--plant", "lose", "--seconds", "5", "--without", "reshard")
    assert code == 1, printed
    assert verdict["lost"] > 0
    assert "VIOLATION lost" in printed


def test_chaos_detects_a_planted_change_of_attributes() -> None:
    code, verdict, printed = _chaos("--plant", "change", "--seconds", "5", "--without", "reshard")
    assert code == 1, printed
    assert verdict["corrupted"] > 0
    assert "VIOLATION corrupted" in printed
