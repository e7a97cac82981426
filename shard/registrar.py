"""Owns what only the registrar (the first replica of partition 0) decides: changes of the directory. All run in
the thread that changes the node, so one follows the other."""

from __future__ import annotations

import time

from lookalike.cluster.directory import Change, Directory
from shard.membership import Membership
from shard.node import Node


def change_directory(node: Node, change: Change, known: Directory) -> Directory:
    """Decides a change.

    Args:
        node: The registrar's node.
        change: The change.
        known: The latest directory that the caller knows.

    Returns:
        The directory after the change.

    Raises:
        AlreadyExists, NotFound, InvalidRequest: See `Directory.changed`.
    """

    def exists(stored: str) -> bool:
        return node.incarnation(stored) is not None

    def step(before: Membership) -> Membership:
        latest = before.directory.latest(known)
        return before.with_directory(latest.changed(change, exists, time.time_ns()))

    return node.change(step).directory


def drop_unless_aliased(node: Node, name: str, incarnation: int) -> bool:
    """Drops a collection, as `Node.drop_collection` does, and removes it from the directory. Raises InvalidRequest
    if it has aliases."""
    after = node.membership.directory.without(name, time.time_ns())
    dropped = node.drop_collection(name, incarnation)
    if dropped:
        node.adopt_directory(after)
    return dropped
