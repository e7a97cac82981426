"""Owns resharding: changes the number of partitions repeatedly, each time after the previous change is complete.
Other faults are injected while a change is in progress."""

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
        """Returns whether the next change may begin."""
        self.advance()
        return not self._is_moving

    def begin(self) -> str:
        """Changes the number of partitions; returns a description."""
        before = self._cluster.partitions
        after = next(step for step in self._steps if step != before)
        self._cluster.set_partitions(after)
        self._is_moving = True
        return f"{before} -> {after} partitions"

    def advance(self) -> list[str]:
        """Stops the emptied shards once a change is complete; returns their names."""
        if not self._is_moving or not self._cluster.is_rebalanced():
            return []
        self._is_moving = False
        return self._cluster.stop_emptied_shards()

    @property
    def is_done(self) -> bool:
        self.advance()
        return not self._is_moving
