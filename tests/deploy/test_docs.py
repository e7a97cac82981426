"""The commands of docs/DEPLOY.md run in order in a copy of deploy/; stand-ins for kubectl and docker check their
arguments against the files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import Cluster
from tests.deploy.render import ROOT, copied
from tests.docs.blocks import blocks_of

STAND_INS = Path(__file__).parent / "stand_ins"


def test_the_commands_run(tmp_path: Path, cluster: Cluster) -> None:
    copied(tmp_path)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(map(str, (STAND_INS, Path(sys.executable).parent, os.environ["PATH"]))),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "KUBECTL_APPLIED": str(tmp_path / "applied.json"),
    }
    run = [block for block in blocks_of("docs/DEPLOY.md") if block.not_run is None]
    assert len(run) >= 8
    for block in run:
        text = block.text.replace("HOST:7700", cluster.address).replace("HOST:PORT", cluster.address)
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=environment, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert result.returncode == 0, f"docs/DEPLOY.md:{block.line}: {result.stdout}"
