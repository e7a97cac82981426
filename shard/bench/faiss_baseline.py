"""Owns FAISS, if it is installed: the baseline that the benchmarks compare the kernel with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

faiss: Any
try:
    import faiss
except ModuleNotFoundError:
    faiss = None

NAME = "FAISS IndexBinaryFlat"


def flat_index(codes: npt.NDArray[np.uint8]) -> Any:
    """Returns an index of the codes, uint8 (n, bits/8), that searches on one thread, or None without FAISS."""
    if faiss is None:
        return None
    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.add(np.ascontiguousarray(codes))
    return index


def restrict(level: str) -> str:
    """Restricts FAISS to a SIMD level; returns the level in use, or "" without FAISS."""
    if faiss is None:
        return ""
    faiss.SIMDConfig.set_level(getattr(faiss, f"SIMDLevel_{level}"))
    return str(faiss.SIMDConfig.get_level_name())
