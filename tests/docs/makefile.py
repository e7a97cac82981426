"""Owns running a target of the Makefile as a user does, with this environment in place of .venv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT

_SECONDS = 240


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `make` in a folder; the checkout's modules are found."""
    command = [
        "make", "--no-print-directory", "-f", ROOT / "Makefile", "-o", ".venv/.installed",
        f"BIN={Path(sys.executable).parent}", *arguments,
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=_SECONDS,
    )  # fmt: skip
