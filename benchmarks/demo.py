"""Duration of the demo, and the peak memory of all its processes together."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_SAMPLE_SECONDS = 0.5


def measure(images: Path | None) -> Iterator[dict[str, Any]]:
    """Runs the demo as a command and samples the proportional set size of its process tree."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lookalike", "demo", "--json", "--output", f"{folder}/demo.html"]
        command += ["--images", str(images)] if images else []
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _tree_bytes(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        seconds = time.perf_counter() - started
        assert process.stdout is not None
        facts = json.loads(process.stdout.read())
    assert process.returncode == 0
    yield {**facts, "seconds": round(seconds, 1), "peak_memory_bytes": peak}


def _tree_bytes(pid: int) -> int:
    """Returns the bytes of a process and its descendants; shared pages count once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
    return total
