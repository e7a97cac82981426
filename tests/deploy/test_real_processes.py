"""The processes of the manifests are started with the commands of the manifests, and serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.hosts import is_permitted
from tests.deploy.network import UNSHARE
from tests.deploy.render import ROOT

pytestmark = [
    pytest.mark.skipif(not is_permitted(), reason="network and mount namespaces are not permitted here"),
]


def rehearsed(kind: str, work: Path) -> list[str]:
    command = [*UNSHARE, sys.executable, "-m", "tests.deploy.rehearsal", kind, str(work)]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr[-6000:]
    return result.stdout.splitlines()


def test_compose_starts_a_cluster_that_serves(tmp_path: Path) -> None:
    assert rehearsed("compose", tmp_path) == ["4 containers serve, 300 records found through both coordinators"]


def test_kubernetes_starts_a_cluster_that_serves_and_scales(tmp_path: Path) -> None:
    assert rehearsed("kubernetes", tmp_path) == [
        "6 containers serve, 300 records found through both coordinators",
        "3 partitions",
        "2 partitions again",
    ]
