"""Owns the union-find forest that collects connected numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class Roots:
    """A union-find forest over 0..count-1. A parent is never larger than its child."""

    def __init__(self, count: int) -> None:
        self._parents: Numbers = np.arange(count, dtype=np.int64)

    def join(self, left: Numbers, right: Numbers) -> None:
        """Connects `left[i]` with `right[i]`, for each i. Both are int64 (pairs,)."""
        ends = np.stack([left, right])
        while True:
            ends = self._of(ends)
            ends = ends[:, ends[0] != ends[1]]
            if not ends.size:
                return
            # Each root gets the smallest root that it is to be connected with. The next round connects the others.
            np.minimum.at(self._parents, ends.max(axis=0), ends.min(axis=0))

    def may_differ(self, left: Numbers, right: Numbers) -> npt.NDArray[np.bool_]:
        """False for each pair that is known to be connected, without a search for the roots."""
        found: npt.NDArray[np.bool_] = self._parents.take(left) != self._parents.take(right)
        return found

    def all(self) -> Numbers:
        """The root of each number, int64 (count,). Shortens all paths."""
        return self._of(np.arange(len(self._parents)))

    def _of(self, numbers: Numbers) -> Numbers:
        """The roots of some numbers. Halves their paths until each is the child of a root."""
        while True:
            parents = self._parents[numbers]
            roots = self._parents[parents]
            if np.array_equal(parents, roots):
                return roots
            self._parents[numbers] = roots
