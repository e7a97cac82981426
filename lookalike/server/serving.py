"""Owns the gRPC server of a process: bind, health, reflection and drain. The coordinator, the shard and the
encoder each add their own servicer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lookalike.model.errors import CannotStart
from lookalike.server.admission import Admission
from lookalike.server.health import Health
from lookalike.server.interceptor import Interceptor
from lookalike.server.observe import metrics
from lookalike.server.security.authorizer import Authorizer
from lookalike.transport.rpc import SERVER_OPTIONS
from lookalike.transport.tls import ServerTls

MAX_CONCURRENT_RPCS = 8_192
DRAIN_SECONDS = 10.0
# The health service reports this name as SERVING while the process runs, ready or not: for liveness probes.
LIVENESS = "liveness"


class Server:
    """A grpc.aio server with health and reflection. Reports NOT_SERVING until `set_ready`."""

    def __init__(
        self,
        service_names: list[str],
        admission: Admission,
        authorizer: Authorizer | None = None,
        shares_port: bool = False,
    ) -> None:
        """Makes a server that is not bound yet.

        Args:
            service_names: The full names of the services that the caller adds to `services`.
            admission: Limits the bytes of requests in flight.
            authorizer: Checks every call of the services; None lets every caller in.
            shares_port: Whether other processes, which say so too, listen on the same port.
        """
        self.grpc = grpc.aio.server(
            interceptors=[Interceptor(admission, authorizer)],
            options=list({**dict(SERVER_OPTIONS), "grpc.so_reuseport": int(shares_port)}.items()),
            maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        )
        self.services: Any = _Services(self.grpc)
        self._service_names = service_names
        self._admission = admission
        self._is_ready = False
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.services)
        # It looks at the server's class to choose between a blocking and an asynchronous servicer.
        reflection.enable_server_reflection(
            [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc
        )

    async def start(self, listen: str, tls: ServerTls | None = None) -> int:
        """Binds and starts.

        Args:
            listen: "host:port"; port 0 for any free port.
            tls: None for plaintext.

        Returns:
            The port.

        Raises:
            CannotStart: If the address cannot be bound.
        """
        try:
            if tls is None:
                port = self.grpc.add_insecure_port(listen)
            else:
                port = self.grpc.add_secure_port(listen, tls.grpc_credentials())
        except RuntimeError:
            raise CannotStart(
                f"listen: {listen} cannot be bound: the port is in use, or the address is not one of this machine"
            ) from None
        self._health.set(["", *self._service_names], is_serving=False)
        self._health.set([LIVENESS], is_serving=True)
        await self.grpc.start()
        return port

    async def set_ready(self, is_ready: bool = True) -> None:
        """Reports SERVING or NOT_SERVING."""
        self._is_ready = is_ready
        self._health.set(["", *self._service_names], is_ready)

    async def stop(self) -> None:
        """Reports NOT_SERVING, lets calls in flight finish for up to DRAIN_SECONDS, and stops."""
        self._is_ready = False
        self._health.end()
        await self.grpc.stop(DRAIN_SECONDS)

    def gauges(self) -> Iterator[metrics.Sample]:
        """The current values of the server's gauges."""
        return process_gauges([self], self._admission)

    @property
    def is_ready(self) -> bool:
        """Whether it reports SERVING."""
        return self._is_ready


class _Services:
    """Stands for the server in the generated functions `add_...Servicer_to_server`. It adds their handlers, but
    does not register each method: for each call that arrives, grpc.aio 1.85 passes a future for every registered
    method to asyncio.wait."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        pass


def process_gauges(servers: Sequence[Server], admission: Admission) -> Iterator[metrics.Sample]:
    """The current gauges of a process. It is ready if all its servers are. admission: that of all of them."""
    yield metrics.READY, (), all(server.is_ready for server in servers)
    yield metrics.REQUEST_BYTES, (), admission.taken
    yield metrics.REQUEST_BYTES_LIMIT, (), admission.limit
