"""Owns `lookalike health`: the health of one server process, for container health checks."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated

import grpc
import typer

from lookalike.cli.options import DEFAULT_SERVER, tls_settings
from lookalike.client.connecting import explain_failed_connection
from lookalike.model.errors import CannotStart, PartitionUnavailable
from lookalike.transport.channels import open_channel
from lookalike.transport.rpc import error_of
from lookalike.transport.tls import Tls, channel_credentials

HEALTHY = "SERVING"


def health(
    server: Annotated[
        str,
        typer.Option(
            "--server",
            "--address",
            envvar="LOOKALIKE_SERVER",
            metavar="HOST:PORT",
            help="The process's gRPC address.",
        ),
    ] = DEFAULT_SERVER,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Trust this CA (PEM); implies TLS.")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Client certificate (PEM).")] = None,
    private_key: Annotated[
        Path | None,
        typer.Option("--private-key", "--key", metavar="FILE", help="Key of the client certificate (PEM)."),
    ] = None,
    server_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Server name to verify; HOST by default.")
    ] = None,
    service: Annotated[
        str,
        typer.Option(help="`liveness` checks that the process runs; the default checks that it serves."),
    ] = "",
    timeout: Annotated[float, typer.Option(help="Timeout in seconds.", min=0.001)] = 3.0,
) -> None:
    """Check the gRPC health of a coordinator, shard or encoder. Exit code 0 if it serves, else 1.

    The TLS options can be given here or before the command, or as environment variables (`lookalike --help`)."""
    tls = _joined(tls_settings(), Tls(ca, certificate, private_key, server_name))
    credentials = channel_credentials(tls) if tls else None
    with contextlib.closing(open_channel(grpc, server, credentials, tls.server_name if tls else None)) as channel:
        state = _ask(channel, server, service, timeout)
    if state != HEALTHY:
        raise PartitionUnavailable(f"{server} is {state}")
    print(f"{server} is {state}")


def _joined(shared: Tls | None, own: Tls) -> Tls | None:
    """The settings of all commands, with this command's own options in place of theirs."""
    given = {name: value for name, value in dataclasses.asdict(own).items() if value is not None}
    return dataclasses.replace(shared or Tls(), **given) if given else shared


def _ask(channel: grpc.Channel, server: str, service: str, timeout: float) -> str:
    """Returns the state's name. Raises PartitionUnavailable if there is no response."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ModuleNotFoundError as error:
        raise CannotStart(f"health: needs {error.name}; run pip install '.[server]' in the checkout") from None
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
    except grpc.RpcError as error:
        text = error_of(error).message
        raise PartitionUnavailable(explain_failed_connection(server, text) or f"no answer: {text}") from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
