"""The commands of docs/DEPLOY.md run in order in a copy of deploy/, and after them those for kubectl, Docker and
systemd in the sentences of all documents and in the comments of deploy/. Stand-ins for the three programs check
their arguments against the files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.deploy.render import ROOT, copied, manifests
from tests.docs.blocks import blocks_of
from tests.docs.inventory import Command, commands, split

STAND_INS = Path(__file__).parent / "stand_ins"
PROGRAMS = ("docker", "kubectl", "systemctl")
BLOCKS = [block for block in blocks_of("docs/DEPLOY.md") if block.not_run is None]
# What a sentence or a comment leaves to the reader.
COMPLETED = {"kubectl apply -k": "deploy/kubernetes/overlays/gpu", "systemctl edit": "lookalike-encoder"}


def spoken() -> Iterator[Command]:
    """The commands outside of blocks that no block has, each once."""
    seen = {words for block in BLOCKS for words in split(block.text)}
    for command in commands():
        if command.place != "block" and command.words[0] in PROGRAMS and command.words not in seen:
            seen.add(command.words)
            yield command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment")
    copied(folder)
    return folder


@pytest.fixture(scope="module")
def environment(place: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "PATH": os.pathsep.join(map(str, (STAND_INS, Path(sys.executable).parent, os.environ["PATH"]))),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "KUBECTL_APPLIED": str(place / "applied.json"),
    }


def run(script: str, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit code, and what the script printed."""
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return result.returncode, result.stdout


def test_the_commands_run(place: Path, environment: Mapping[str, str], cluster: Cluster) -> None:
    assert len(BLOCKS) >= 10
    for block in BLOCKS:
        text = block.text.replace("HOST:7700", cluster.address).replace("HOST:PORT", cluster.address)
        code, said = run(text, place, environment)
        assert code == 0, f"docs/DEPLOY.md:{block.line}: {said}"


def test_the_commands_of_sentences_and_comments_run(place: Path, environment: Mapping[str, str]) -> None:
    """Relies on the test before, which applies the manifests."""
    _three_replicas(place, environment)
    found = list(spoken())
    assert {command.words[0] for command in found} == set(PROGRAMS)
    for command in found:
        text = " ".join([command.text, COMPLETED.get(command.text, "")]).replace(" ...", "")
        folder = place / "deploy" / "compose" if command.words[:2] == ("docker", "compose") else place
        code, said = run(text, place if text.startswith("cd ") else folder, environment)
        assert code == 0, f"{command.file}:{command.line}: {text}: {said}"


def _three_replicas(place: Path, environment: Mapping[str, str]) -> None:
    """A sentence removes the third replica: there must be one."""
    overlay = place / "deploy" / "kubernetes" / "overlays" / "production"
    config = overlay / "lookalike.yaml"
    text = config.read_text()
    assert text.count("\nreplicas: 2\n") == 1
    config.write_text(text.replace("\nreplicas: 2\n", "\nreplicas: 3\n"))
    manifests(overlay)
    code, said = run(f"kubectl apply -k {overlay}", place, environment)
    assert code == 0, said


@pytest.mark.parametrize(
    "wrong",
    [
        "kubectl -n lookalike delete statefulset shard-r9",
        "kubectl -n lookalike port-forward service/coordinator 7777",
        "kubectl -n lookalike rollout restart deployment/decoder",
        "systemctl restart 'lookalike-shart@0-*'",
        "systemctl enable --now lookalike-backup@codes.service",
    ],
)
def test_the_stand_ins_refuse_a_wrong_command(wrong: str, place: Path, environment: Mapping[str, str]) -> None:
    code, said = run(wrong, place, environment)
    assert code != 0
    assert "AssertionError" in said
