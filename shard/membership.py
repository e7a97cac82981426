"""Owns what a shard knows about itself and the cluster, in FOLDER/shard.json: which shard the folder belongs to,
the founders of the cluster, the target placement, the state of each slot on this shard, and the names of
collections.

A change is on disk before any other process learns of it. The file also has an instance: a random name, drawn
when the folder is created. The instance distinguishes a replaced, empty disk from the previous one, so the shard
does not claim the slots that the previous disk had."""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.cluster.directory import Directory
from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotTable
from lookalike.files.atomic import write_bytes
from lookalike.model.errors import CannotStart
from lookalike.model.ttl import Ttl

FILE = "shard.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """The shard that a folder belongs to."""

    cluster: str
    partition: int
    replica: int

    def __str__(self) -> str:
        return f"cluster {self.cluster!r}, partition {self.partition}, replica {self.replica}"


@dataclasses.dataclass(frozen=True, slots=True)
class Membership:
    """What a shard knows about itself and the cluster. Immutable; each method that changes something returns a
    new membership.

    Attributes:
        instance: A random name, drawn when the folder was created.
        is_formed: Whether the shard belongs to a cluster.
        founders: "partition/replica/instance" of the shards that formed the cluster; empty if this shard joined
            later.
        configured: The number of partitions that this shard last read in its config.
        target: The distribution of slots over partitions that the cluster works towards.
        table: The state of each slot on this shard.
        dropped: By name of a dropped collection, the highest incarnation that was dropped.
        directory: The names of collections.
    """

    identity: Identity
    instance: str
    is_formed: bool
    founders: tuple[str, ...]
    configured: int
    target: Target
    table: SlotTable
    dropped: dict[str, int]
    directory: Directory = dataclasses.field(default_factory=Directory)

    @classmethod
    def new(cls, identity: Identity, partitions: int) -> Membership:
        """Returns the membership of an empty folder: not formed yet, with no slots."""
        table = SlotTable.empty(identity.partition)
        return cls(identity, secrets.token_hex(8), False, (), partitions, Target(0, partitions), table, {})

    @property
    def member(self) -> str:
        """The shard's name among the founders."""
        return f"{self.identity.partition}/{self.identity.replica}/{self.instance}"

    def formed(self, founders: tuple[str, ...]) -> Membership:
        """Becomes a founder of a cluster, with its share of the slots."""
        partitions = 1 + max(int(founder.partition("/")[0]) for founder in founders)
        target = Target(1, partitions)
        own = self.identity.partition
        table = SlotTable.founded(own, target.owners() == own)
        latest = max(target, self.target, key=lambda known: known.order)
        return dataclasses.replace(
            self, is_formed=True, founders=founders, configured=partitions, target=latest, table=table
        )

    def joined(self, target: Target) -> Membership:
        """Joins an existing cluster, without slots at first."""
        return dataclasses.replace(self, is_formed=True, target=target)

    def with_directory(self, directory: Directory) -> Membership:
        """Adopts a directory that another shard or a coordinator sent, if it is later than this shard's."""
        latest = self.directory.latest(directory)
        return self if latest is self.directory else dataclasses.replace(self, directory=latest)

    def with_target(self, target: Target) -> Membership:
        """Adopts a target that another shard or a coordinator sent, if it is later than this shard's."""
        return dataclasses.replace(self, target=target) if target.order > self.target.order else self

    def with_config(self, partitions: int) -> Membership:
        """Proposes the next target if the config's number of partitions changed since this shard last read it. If
        the config is unchanged but the target differs from it, other shards changed the target, and nothing is
        proposed."""
        if partitions == self.configured or not self.is_formed:
            return self
        known = self.target
        drained = tuple(partition for partition in known.drained if partition < partitions)
        target = known.followed_by(partitions, drained)
        return dataclasses.replace(self, configured=partitions, target=target)


def load(folder: Path, identity: Identity, partitions: int) -> Membership:
    """Reads a folder's membership, or returns that of a new shard.

    Raises:
        CannotStart: If the folder belongs to another shard, or the file is damaged.
    """
    path = folder / FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        owner = Identity(stored["cluster"], stored["partition"], stored["replica"])
    except FileNotFoundError:
        return Membership.new(identity, partitions)
    except (ValueError, TypeError, KeyError):
        raise _damaged(path) from None
    if owner != identity:
        raise CannotStart(f"data: {folder} belongs to {owner}, this is {identity}; give each shard its own folder")
    if "instance" not in stored:
        # The file is from before resharding was supported: it has only the number of partitions.
        before = Membership.new(identity, partitions)
        founders = tuple(f"{partition}/0/" for partition in range(stored["partitions"]))
        return before.formed(founders)
    try:
        return _read(stored, identity)
    except (ValueError, TypeError, KeyError):
        raise _damaged(path) from None


def save(folder: Path, membership: Membership) -> None:
    """Writes the file; it is on disk when this returns."""
    target, table = membership.target, membership.table
    stored = {
        **dataclasses.asdict(membership.identity),
        "instance": membership.instance,
        "formed": membership.is_formed,
        "founders": membership.founders,
        "configured": membership.configured,
        "target": dataclasses.asdict(target),
        "slots": {
            "states": "".join(map(str, table.states.tolist())),
            "partners": base64.b64encode(table.partners.astype("<u2").tobytes()).decode(),
            "generations": base64.b64encode(table.generations.astype("<u4").tobytes()).decode(),
        },
        "dropped": membership.dropped,
        "directory": dataclasses.asdict(membership.directory),
    }
    path = folder / FILE
    write_bytes(path, json.dumps(stored).encode())


def _read(stored: dict[str, Any], identity: Identity) -> Membership:
    slots = stored["slots"]
    target = stored["target"]
    table = SlotTable(
        identity.partition,
        np.array(list(slots["states"]), np.uint8),
        np.frombuffer(base64.b64decode(slots["partners"]), "<u2").astype(np.uint16),
        np.frombuffer(base64.b64decode(slots["generations"]), "<u4").astype(np.uint32),
    )
    return Membership(
        identity,
        stored["instance"],
        stored["formed"],
        tuple(stored["founders"]),
        stored["configured"],
        Target(target["epoch"], target["partitions"], tuple(target["drained"]), target["formerly"]),
        table,
        dict(stored["dropped"]),
        _directory(stored.get("directory", {})),
    )


def _directory(stored: dict[str, Any]) -> Directory:
    """Reads the directory; an empty one from a file that was written before there was a directory."""
    if not stored:
        return Directory()
    ttls = {name: Ttl(**ttl) for name, ttl in stored["ttls"].items()}
    return Directory(stored["version"], stored["aliases"], stored["renamed"], ttls)


def _damaged(path: Path) -> CannotStart:
    return CannotStart(
        f"data: {path} is damaged; empty the folder if another replica is running, or restore it from a backup"
    )
