"""Owns `lookalike health`: the health of one server process, for a container's health check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer

from lookalike.cli.options import DEFAULT_SERVER
from lookalike.errors import CannotStart, InvalidRequest, PartitionUnavailable
from lookalike.rpc import error_of

HEALTHY = "SERVING"


def health(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The process's gRPC address.")
    ] = DEFAULT_SERVER,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Speak TLS, and trust who is signed by this PEM file.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What to show to a server that asks, a PEM file.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key, a PEM file.")] = None,
    server_name: Annotated[
        str | None, typer.Option(help="What the server's certificate is made out to, if not to HOST.")
    ] = None,
    service: Annotated[
        str, typer.Option(help="Whose health: the server's; or `liveness`: that the process runs, serving or not.")
    ] = "",
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.", min=0.001)] = 3.0,
) -> None:
    """Ask a coordinator, shard or encoder for its gRPC health. Exit code 0 if it serves, else 1."""
    credentials = _credentials(ca, certificate, key)
    with _channel(address, credentials, server_name) as channel:
        state = _ask(channel, service, timeout)
    if state != HEALTHY:
        raise PartitionUnavailable(f"{address} is {state}")
    print(f"{address} is {state}")


def _ask(channel: grpc.Channel, service: str, timeout: float) -> str:
    """The name of the state. Raises PartitionUnavailable when there is no answer."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ModuleNotFoundError as error:
        raise CannotStart(f"health: needs {error.name}; pip install 'lookalike[server]'") from None
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
    except grpc.RpcError as error:
        raise PartitionUnavailable(f"no answer: {error_of(error).message}") from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _credentials(ca: Path | None, certificate: Path | None, key: Path | None) -> grpc.ChannelCredentials | None:
    """None: plain text."""
    if (certificate is None) != (key is None):
        raise InvalidRequest("certificate and key: give both or none")
    if ca is None:
        if certificate is not None:
            raise InvalidRequest("ca: is missing; give the PEM file of who signed the server's certificate")
        return None
    shown = (_read(key), _read(certificate)) if key and certificate else (None, None)
    return grpc.ssl_channel_credentials(_read(ca), *shown)


def _channel(address: str, credentials: grpc.ChannelCredentials | None, server_name: str | None) -> grpc.Channel:
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.secure_channel(address, credentials, options)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
