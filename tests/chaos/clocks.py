"""Owns wrong clocks: a process started with this environment reads the time so many seconds off. Python runs
`sitecustomize` before the program, and there `time.time_ns` is shifted, by which alone the cluster tells the date.

Not `time.time`: gRPC's Python part adds timeouts to it and hands the sum to its C part, which reads the true
clock, so every call would be over before it began. A machine whose clock is wrong misleads both alike."""

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
        """folder: for the code that shifts the clock; is made."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")

    def shifted(self, environment: Mapping[str, str], seconds: float) -> dict[str, str]:
        """The environment of a process whose clock is `seconds` ahead (or behind, below 0)."""
        given = dict(environment)
        given.pop(_VARIABLE, None)
        paths = [path for path in given.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths = [path for path in paths if path != str(self._folder)]
        if seconds:
            given[_VARIABLE] = str(seconds)
            paths.insert(0, str(self._folder))
        given["PYTHONPATH"] = os.pathsep.join(paths)
        if not paths:
            del given["PYTHONPATH"]
        return given
