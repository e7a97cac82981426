"""Owns clock skew: a process started with this environment sees a shifted wall clock. Python runs `sitecustomize`
before the program; it shifts `time.time_ns`, the only wall clock that the cluster reads.

`time.time` is not shifted: gRPC's Python code adds timeouts to it and passes the sum to its C code, which reads
the real clock, so every deadline would be wrong. On a machine whose clock is really off, both see the same
time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "CHAOS_CLOCK_OFFSET_SECONDS"
_SITECUSTOMIZE = f'''
import os
import time

_offset = float(os.environ["{_VARIABLE}"])
_time_ns = time.time_ns
time.time_ns = lambda: _time_ns() + int(_offset * 1e9)
'''


class Clocks:
    def __init__(self, folder: Path) -> None:
        """Writes the code that shifts the clock to `folder`, which is created if missing."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")

    def shifted(self, environment: Mapping[str, str], seconds: float) -> dict[str, str]:
        """Returns the environment of a process whose clock is `seconds` ahead (behind if negative)."""
        shifted = dict(environment)
        shifted.pop(_VARIABLE, None)
        paths = [path for path in shifted.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths = [path for path in paths if path != str(self._folder)]
        if seconds:
            shifted[_VARIABLE] = str(seconds)
            paths.insert(0, str(self._folder))
        shifted["PYTHONPATH"] = os.pathsep.join(paths)
        if not paths:
            del shifted["PYTHONPATH"]
        return shifted
