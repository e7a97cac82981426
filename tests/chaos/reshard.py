"""Owns resharding: the cluster is asked for one number of partitions after another, each once the last is done.
A step takes its time while other faults strike."""

from __future__ import annotations

import itertools

from tests.chaos.cluster import Cluster

_STEPS = (3, 5, 4, 2)


class Resharding:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._steps = itertools.cycle(_STEPS)
        self._is_moving = False

    def is_ready(self) -> bool:
        """Whether a step may be begun."""
        self.tend()
        return not self._is_moving

    def begin(self) -> str:
        """Ask for the next number of partitions; returns what was done."""
        before = self._cluster.partitions
        wanted = next(step for step in self._steps if step != before)
        self._cluster.set_partitions(wanted)
        self._is_moving = True
        return f"{before} -> {wanted} partitions"

    def tend(self) -> list[str]:
        """Stop shards that are empty now and shall be; returns their names."""
        if not self._is_moving or not self._cluster.is_divided():
            return []
        self._is_moving = False
        return self._cluster.retire_emptied()

    @property
    def is_done(self) -> bool:
        self.tend()
        return not self._is_moving
