"""Owns the gRPC servers of encoders, which accept images and pass them to the models behind Ray Serve handles. A
process may serve several encoders, each on its own address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from encoder.deployment import ReplicaWatch
from encoder.server import EncoderServicer
from encoder.spec import Description, errors_of
from lookalike.model.errors import CannotStart
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.admission import Admission
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig, EncoderConfig
from lookalike.server.observe import metrics
from lookalike.server.observe.process import Observation
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.serving import Server, process_gauges
from lookalike.v1 import encoder_pb2, encoder_pb2_grpc


class _Front:
    """The running server of one encoder."""

    def __init__(self, server: Server, servicer: EncoderServicer, watch: ReplicaWatch) -> None:
        self.server = server
        self.servicer = servicer
        self.watch = watch

    @classmethod
    async def start(
        cls, handle: Any, name: str, config: EncoderConfig, cluster: ClusterConfig, admission: Admission
    ) -> Self:
        description: Description | str = await handle.describe.remote()
        if isinstance(description, str):
            raise CannotStart(description)
        peer_channels = PeerChannels(cluster.security)
        service = encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name
        server = Server([service], admission, peer_channels.authorizer())
        servicer = EncoderServicer(handle, name, description, config.max_replicas, cluster.limits.max_image_bytes)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server.services)
        await server.start(config.listen or config.address, peer_channels.inner_tls())
        return cls(server, servicer, ReplicaWatch(name, config.max_replicas))

    async def stop(self) -> None:
        await self.server.stop()
        await self.servicer.close()


class Fronts:
    """The running servers of this process; started by `start`, stopped by `stop`."""

    def __init__(self, fronts: Sequence[_Front], admission: Admission, observation: Observation) -> None:
        self._fronts = fronts
        self._admission = admission
        self._observation = observation

    @classmethod
    async def start(
        cls,
        handles: Mapping[str, Any],
        cluster: ClusterConfig,
        observation: Observation,
        background: BackgroundTasks,
    ) -> Self:
        """Starts a server for each encoder.

        Args:
            handles: By encoder, the handle of a Ray Serve deployment of `EncoderReplica`.
            cluster: The cluster's config.
            observation: The process's metrics and traces.
            background: Runs the watches over the replicas.

        Raises:
            CannotStart: If a model cannot be loaded, or an address cannot be bound.
        """
        observation.trace()
        # The limit on request bytes is that of the process.
        admission = Admission(cluster.max_request_bytes)
        fronts = []
        for name, handle in handles.items():
            with errors_of(name):
                fronts.append(await _Front.start(handle, name, cluster.all_encoders[name], cluster, admission))
        started = cls(fronts, admission, observation)
        # Each address serves the metrics of all encoders, which the label `encoder` tells apart.
        for address in {cluster.all_encoders[name].metrics for name in handles}:
            observation.serve_metrics(address, started._gauges)
        for name, front in zip(handles, fronts, strict=True):
            await front.server.set_ready()
            suffix = "" if name == DEFAULT_ENCODER else f" of {name}"
            background.start(f"replica watch{suffix}", front.watch.run)
        return started

    async def stop(self) -> None:
        """Finishes the requests in flight, and stops."""
        for front in self._fronts:
            await front.stop()
        self._observation.stop()

    def _gauges(self) -> Iterator[metrics.Sample]:
        yield from process_gauges([front.server for front in self._fronts], self._admission)
        for front in self._fronts:
            yield from front.servicer.gauges()
            yield from front.watch.gauges()
