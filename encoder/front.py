"""Owns the encoder's gRPC server: one process that accepts images and passes them to the models behind a
Ray Serve handle."""

from __future__ import annotations

from typing import Any, Self

from encoder.deployment import ReplicaWatch
from encoder.server import EncoderServicer
from encoder.spec import Description
from lookalike.model.errors import CannotStart
from lookalike.server.admission import Admission
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig, EncoderConfig
from lookalike.server.observe.process import Observation
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.serving import Server
from lookalike.v1 import encoder_pb2, encoder_pb2_grpc


class Front:
    """A running server; started by `start`, stopped by `stop`."""

    def __init__(self, server: Server, servicer: EncoderServicer, observation: Observation) -> None:
        self._server = server
        self._servicer = servicer
        self._observation = observation

    @classmethod
    async def start(
        cls,
        handle: Any,
        cluster: ClusterConfig,
        config: EncoderConfig,
        observation: Observation,
        background: BackgroundTasks,
    ) -> Self:
        """Starts the server.

        Args:
            handle: The handle of a Ray Serve deployment of `EncoderReplica`.
            cluster: The cluster's config.
            config: The encoder section of the cluster's config.
            observation: The process's metrics and traces.
            background: Runs the watch over the replicas.

        Raises:
            CannotStart: If the model cannot be loaded, or an address cannot be bound.
        """
        description: Description | str = await handle.describe.remote()
        if isinstance(description, str):
            raise CannotStart(description)
        observation.trace()
        peer_channels = PeerChannels(cluster.security)
        server = Server(
            [encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name],
            Admission(cluster.max_request_bytes),
            peer_channels.authorizer(),
        )
        servicer = EncoderServicer(handle, description, config.max_replicas, cluster.limits.max_image_bytes)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server.grpc)
        await server.start(config.listen or config.address, peer_channels.inner_tls())
        watch = ReplicaWatch(config.max_replicas)
        observation.serve_metrics(config.metrics, server.gauges, servicer.gauges, watch.gauges)
        await server.set_ready()
        background.start("replica watch", watch.run)
        return cls(server, servicer, observation)

    async def stop(self) -> None:
        """Finishes the requests in flight, and stops."""
        await self._server.stop()
        await self._servicer.close()
        self._observation.stop()
