"""Schemathesis finds no failure of the REST API, with all its checks, except those that docs/REST.md documents."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike import Record
from tests.conftest import running_cluster

ROOT = Path(__file__).parents[2]
CONFIG = """
hooks = "tests.web.schemathesis_exceptions"
[warnings]
enabled = false
"""
# A change of a name or a TTL waits for 3 s; tests/cluster/test_names.py and test_ttl.py check their answers
# against the document.
SLOW = ("createAlias", "switchAlias", "deleteAlias", "renameCollection", "setTtl")


@pytest.mark.skipif(
    not os.environ.get("LOOKALIKE_SCHEMATHESIS"),
    reason="what a minute of Schemathesis draws depends on the machine: make schemathesis runs it",
)
@pytest.mark.timeout(600)
def test_no_check_of_schemathesis_fails(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with running_cluster(tmp_path / "data", partitions=2) as cluster:
        with cluster.client() as client:
            client.create_collection("codes", bits=64)
            records = [Record(f"k{n}", code=bytes([n] * 8), attributes={"n": n}) for n in range(20)]
            client.upsert(records, collection="codes")
        url = f"http://{cluster.config.coordinator.web}/openapi.json"
        options = ["--checks", "all", "--max-time", "50", "--seed", "1", "--workers", "2", "--no-color"]
        options += [word for operation in SLOW for word in ("--exclude-operation-id", operation)]
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", url, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=570,
        )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert "passed" in done.stdout
