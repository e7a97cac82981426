"""Owns the time that `benchmarks.gpu` may take, and the measurement of a rate with the GPU's memory and load."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import torch

_SAMPLE_SECONDS = 0.1


class Budget:
    """The seconds for all measurements. Loading and compiling count too, so measurements get shorter."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def part(self, share: float, count: int) -> float:
        """The seconds for each of `count` measurements that together get this share of the budget. Two thirds of
        it are measured; the rest is for loading and warm-up."""
        return min(self.seconds * share, self.left) / count * 2 / 3


class Timer:
    """Measures rates on one device, "cuda" or "cpu"."""

    def __init__(self, device: str) -> None:
        self._is_gpu = device == "cuda"

    def rate(self, run: Callable[[], int], seconds: float) -> dict[str, Any]:
        """Calls `run`, which returns the number of images that it processed, once to warm up, then once or more
        often for about `seconds`. Returns images per second and, for a GPU, its peak memory and load."""
        run()
        if self._is_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        images, started = 0, time.perf_counter()
        with _Load(self._is_gpu) as load:
            while not images or time.perf_counter() - started < seconds:
                images += run()
                if self._is_gpu:
                    torch.cuda.synchronize()
            elapsed = time.perf_counter() - started
        figure = {"images_per_second": round(images / elapsed, 1), "images": images, "seconds": round(elapsed, 2)}
        if self._is_gpu:
            # This process's tensors only; the context of CUDA takes some hundred MB more.
            figure["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
            figure |= load.summary()
        return figure


class _Load:
    """Samples the share of time in which the GPU computed anything, in per cent."""

    def __init__(self, is_gpu: bool) -> None:
        self._samples: list[int] = []
        self._error = "" if is_gpu else "no GPU"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def summary(self) -> dict[str, Any]:
        if not self._samples:
            return {"gpu_busy_percent": None, "gpu_busy_error": self._error or "the measurement was too short"}
        return {"gpu_busy_percent": round(sum(self._samples) / len(self._samples))}

    def _sample(self) -> None:
        while not self._error and not self._stopped.wait(_SAMPLE_SECONDS):
            try:
                self._samples.append(_gpu_utilization())
            except (ImportError, RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
                self._error = f"{type(error).__name__}: {error}"[:200]


def _gpu_utilization() -> int:
    """The load of the current GPU over the driver's last sample period, by NVML, or else by nvidia-smi."""
    try:
        return int(torch.cuda.utilization())
    except (ImportError, RuntimeError):
        program = shutil.which("nvidia-smi")
        if program is None:
            raise
        asked = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        return int(subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout.split()[0])
