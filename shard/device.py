"""Owns the choice of the device that scans: the processor, or a GPU."""

from __future__ import annotations

from typing import Literal

from lookalike.model.errors import CannotStart
from shard.kernel import Search


def searcher(device: Literal["cpu", "cuda"]) -> Search | None:
    """Returns the search of a device; None for the CPU's. Raises CannotStart if there is no such device."""
    if device == "cpu":
        return None
    from shard.kernel.cuda import CudaSearch

    try:
        return CudaSearch().search
    except RuntimeError as error:
        raise CannotStart(f"shard.device: cuda, but no GPU is usable here ({error}); use cpu") from None
