"""Owns `lookalike health`: the health of one server process, for container health checks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import grpc
import typer

from lookalike.cli.options import DEFAULT_SERVER
from lookalike.model.errors import CannotStart, PartitionUnavailable
from lookalike.transport.channels import open_channel
from lookalike.transport.rpc import error_of
from lookalike.transport.tls import Tls, channel_credentials

HEALTHY = "SERVING"


def health(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The process's gRPC address.")
    ] = DEFAULT_SERVER,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Trust this CA (PEM); implies TLS.")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Client certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Key of the client certificate (PEM).")] = None,
    server_name: Annotated[str | None, typer.Option(help="Server name to verify; HOST by default.")] = None,
    service: Annotated[
        str,
        typer.Option(help="`liveness` checks that the process runs; the default checks that it serves."),
    ] = "",
    timeout: Annotated[float, typer.Option(help="Timeout in seconds.", min=0.001)] = 3.0,
) -> None:
    """Check the gRPC health of a coordinator, shard or encoder. Exit code 0 if it serves, else 1."""
    is_secure = bool(ca or certificate or key or server_name)
    credentials = channel_credentials(Tls(ca, certificate, key)) if is_secure else None
    with contextlib.closing(open_channel(grpc, address, credentials, server_name)) as channel:
        state = _ask(channel, service, timeout)
    if state != HEALTHY:
        raise PartitionUnavailable(f"{address} is {state}")
    print(f"{address} is {state}")


def _ask(channel: grpc.Channel, service: str, timeout: float) -> str:
    """Returns the state's name. Raises PartitionUnavailable if there is no response."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ModuleNotFoundError as error:
        raise CannotStart(f"health: needs {error.name}; run pip install '.[server]' in the checkout") from None
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
    except grpc.RpcError as error:
        raise PartitionUnavailable(f"no answer: {error_of(error).message}") from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
