"""A TypeScript client: code generated from protos/, type-checked, and run against a cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cluster

EXAMPLE = Path(__file__).parents[2] / "examples" / "typescript"
SECONDS = 120


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the example, generated and compiled. Its packages must be installed with `npm ci`."""
    is_ready = shutil.which("node") is not None and (EXAMPLE / "node_modules").is_dir()
    if not is_ready and os.environ.get("LOOKALIKE_REQUIRE_NODE") != "1":
        pytest.skip("needs Node.js 20 and `npm ci --prefix examples/typescript`")
    assert is_ready, (
        "Node.js or examples/typescript/node_modules is missing; run `npm ci --prefix examples/typescript`"
    )
    folder = tmp_path_factory.mktemp("typescript") / "examples" / "typescript"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("generated", "build", "node_modules"))
    (folder / "node_modules").symlink_to(EXAMPLE / "node_modules")
    (folder.parents[1] / "protos").symlink_to(EXAMPLE.parents[1] / "protos")
    (folder / "generated").mkdir()
    # Provides the interpreter with grpcio-tools as `python3`.
    python = folder.parents[1] / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for script in ("generate", "build"):
        run("npm", "run", "--silent", script, cwd=folder, env=environment)
    return folder


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_typescript_client_stores_searches_and_reads_errors(cluster: Cluster, built: Path) -> None:
    answer, error = map(
        json.loads, run("node", "build/search.js", cluster.address, "typescript", cwd=built).splitlines()
    )
    assert answer == {
        "hits": [
            {"key": "near", "distance": 1, "attributes": "{}"},
            {"key": "far", "distance": 64, "attributes": '{"label":"far"}'},
        ],
        "exact": True,
    }
    assert (error["code"], error["error"]) == ("NotFound", "NotFound")
    assert "nowhere" in error["text"]
