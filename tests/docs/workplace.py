"""Owns the folder in which the commands of a document run: a home with images, stand-ins for missing programs, and
the addresses of a real cluster in place of the documented ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from lookalike.local.ephemeral import ephemeral_config
from lookalike.server.config import ClusterConfig
from tests.docs.blocks import ROOT, Block
from tests.docs.forked import fork_listener

BLOCK_SECONDS = 240
# The largest cluster that a document starts.
MAX_PARTITIONS, MAX_REPLICAS = 4, 2
_STAND_INS = Path(__file__).parent / "stand_ins"
_LINKED = ("deploy", "docs", "protos", "examples", "pyproject.toml", "README.md")
# The names that README.md's program uses without defining them.
_PROGRAM_NAMES = """\
import numpy as np
from lookalike import Record

def my_records():
    codes = np.random.default_rng(0).integers(0, 256, (100, 32), np.uint8)
    return (Record(f"made-elsewhere-{i}", code=code.tobytes()) for i, code in enumerate(codes))

"""


class Workplace:
    """A temporary folder, and the environment of its commands. pictures: a folder with one sub-folder per
    photograph. running: the cluster that the document's `lookalike up` stands for; without one, it starts its
    own."""

    def __init__(self, folder: Path, pictures: Path, running: ClusterConfig | None) -> None:
        self._folder = folder
        self._home = folder / "home"
        self._place_pictures(pictures)
        for name in _LINKED:
            if (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)
        self._up_data = folder / "srv"
        config = running or ephemeral_config(self._up_data, MAX_PARTITIONS, replicas=MAX_REPLICAS)
        self._stands_for = {
            "127.0.0.1:7700": config.coordinator.listen,
            "127.0.0.1:7780": config.coordinator.web,
            "/srv/lookalike": str(self._up_data),
        }
        self._resources = contextlib.ExitStack()
        self._fork_socket = self._resources.enter_context(fork_listener())
        self._environment = self._make_environment(config, running is not None)

    def run(self, block: Block) -> subprocess.CompletedProcess[str]:
        """Runs a block to its end and returns its output as one text. The exit code is 124 after a timeout."""
        text = block.text
        for documented, actual in self._stands_for.items():
            text = text.replace(documented, actual)
        if block.language == "python":
            command = [sys.executable, "-W", "error", "-c", _PROGRAM_NAMES + text]
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
        # A file, not a pipe: processes that a block leaves running would keep a pipe open.
        output = self._folder / "output.txt"
        with output.open("wb") as file:
            try:
                code = subprocess.run(
                    command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=file,
                    stderr=subprocess.STDOUT, check=False, timeout=BLOCK_SECONDS,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code = 124
        printed = output.read_text(encoding="utf-8", errors="replace")
        return subprocess.CompletedProcess(command, code, printed)

    def logs(self) -> str:
        """The last lines of the clusters that `lookalike up` started."""
        files = [*sorted(self._folder.glob("up-*.log")), *sorted(self._folder.glob("*/logs/*.log"))]
        tails = (file.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] for file in files)
        return "\n".join(
            f"{file.name}: {line}" for file, lines in zip(files, tails, strict=True) for line in lines
        )

    def close(self) -> None:
        """Stops the clusters that `lookalike up` started."""
        self._resources.close()
        left = [psutil.Process(int(file.read_text())) for file in self._folder.glob("up-*.pid")]
        for process in left:
            process.terminate()
        _, alive = psutil.wait_procs(left, timeout=60)
        assert not alive, f"did not stop: {alive}"

    def _place_pictures(self, pictures: Path) -> None:
        self._home.mkdir()
        shutil.copytree(pictures, self._home / "Pictures")
        shutil.copytree(pictures, self._home / "Labelled")
        chelsea = next(pictures.glob("chelsea/*"))
        cats = self._home / "Pictures" / "cats"
        cats.mkdir()
        for target in (cats / "tom.jpg", self._folder / "cat.jpg", self._folder / "tom.jpg"):
            shutil.copy(chelsea, target)

    def _make_environment(self, config: ClusterConfig, is_running: bool) -> Mapping[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")},
            "HOME": str(self._home),
            "PATH": os.pathsep.join(map(str, (_STAND_INS, Path(sys.executable).parent, os.environ["PATH"]))),
            "FORK_SOCKET": str(self._fork_socket),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "REPOSITORY": str(ROOT),
            "LOOKALIKE_SERVER": config.coordinator.listen,
            "UP_IS_RUNNING": "1" if is_running else "",
            "UP_LISTEN": config.coordinator.listen,
            "UP_WEB": config.coordinator.web,
            "UP_SHARDS": config.shard.address,
        }
