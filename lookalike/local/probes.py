"""Owns the supervisor's checks of addresses: whether a port is free, a server is ready, or a shard is empty."""

from __future__ import annotations

import contextlib
import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike import wire
from lookalike.model.errors import CannotStart
from lookalike.server.peer_channels import PeerChannels
from lookalike.transport.channels import open_channel
from lookalike.v1 import shard_pb2
from lookalike.v1.shard_pb2_grpc import ShardServiceStub

_TIMEOUT_SECONDS = 1.0


def require_free(name: str, address: str) -> None:
    """Raises CannotStart, naming the process, if nothing can listen on the address."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise CannotStart(
                f"{name}: {address} cannot be bound ({error.strerror}); free the port or name another"
            ) from None


def serves(channels: PeerChannels, address: str) -> bool:
    """Whether the server at the address, "host:port" or "unix:PATH", answers a gRPC health check with SERVING."""
    host, _, port = address.rpartition(":")
    reachable = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host
    # Unix sockets have no TLS.
    opened = open_channel(grpc, address) if host == "unix" else channels.open(f"{reachable}:{port}", grpc)
    with contextlib.closing(opened) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def is_drained(channels: PeerChannels, address: str) -> bool:
    """Whether the shard holds no slots and no rows, and its target removes or drains its partition."""
    with contextlib.closing(channels.open(address, grpc)) as channel:
        try:
            answer = ShardServiceStub(channel).ShardStatus(
                shard_pb2.ShardStatusRequest(), timeout=_TIMEOUT_SECONDS
            )
        except grpc.RpcError:
            return False
    state = wire.state_from_wire(answer)
    removed = state.partition >= state.target.partitions or state.partition in state.target.drained
    return bool(removed and not state.table.writable.any() and not state.rows_left_over)
