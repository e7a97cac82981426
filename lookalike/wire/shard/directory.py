"""Owns the conversion of the directory and its changes to and from messages."""

from __future__ import annotations

from lookalike.cluster.directory import Change, Directory, Kind
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import shard_pb2
from lookalike.wire.public.collections import ttl_from_wire, ttl_to_wire


def directory_to_wire(directory: Directory) -> shard_pb2.Directory:
    return shard_pb2.Directory(
        version=directory.version,
        aliases=directory.aliases,
        renamed=directory.renamed,
        ttls={name: ttl_to_wire(ttl) for name, ttl in directory.ttls.items()},
    )


def directory_from_wire(message: shard_pb2.Directory) -> Directory:
    """Raises InvalidRequest if a TTL is invalid."""
    ttls = {name: ttl_from_wire(ttl) for name, ttl in message.ttls.items()}
    return Directory(message.version, dict(message.aliases), dict(message.renamed), ttls)


def change_to_wire(change: Change, known: Directory) -> shard_pb2.ChangeDirectoryRequest:
    return shard_pb2.ChangeDirectoryRequest(
        kind=shard_pb2.ChangeDirectoryRequest.Kind.Value(f"KIND_{change.kind.name}"),
        name=change.name,
        other=change.other,
        ttl=None if change.ttl is None else ttl_to_wire(change.ttl),
        known=directory_to_wire(known),
    )


def change_from_wire(message: shard_pb2.ChangeDirectoryRequest) -> Change:
    """Raises InvalidRequest if the kind is unknown."""
    try:
        kind = Kind(message.kind)
    except ValueError:
        raise InvalidRequest(f"kind: unknown value {message.kind}; use a newer shard") from None
    ttl = ttl_from_wire(message.ttl) if message.HasField("ttl") else None
    return Change(kind, message.name, message.other, ttl)
