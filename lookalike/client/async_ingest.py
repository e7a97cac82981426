"""Owns one ingest stream of `AsyncClient`: sends messages, and sends those again that a failed coordinator did not
acknowledge."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator

import grpc

from lookalike.client.calls import Calls, seconds_until
from lookalike.client.endpoints import AsyncCoordinators
from lookalike.client.resend_buffer import AsyncResendBuffer
from lookalike.transport import tracing
from lookalike.transport.retry import Retry
from lookalike.v1 import search_pb2 as pb


class AsyncIngestStream:
    """Sends the messages of one call to `ingest`.

    Args:
        coordinators: Where to send them.
        calls: Explains failures, and knows how long to wait for a coordinator.
        timeout: Seconds for the whole stream; None for no limit.
    """

    def __init__(self, coordinators: AsyncCoordinators, calls: Calls, timeout: float | None) -> None:
        self._coordinators = coordinators
        self._calls = calls
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout

    async def responses(self, requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[pb.IngestResponse]:
        """Yields the response to each message, in order.

        Raises:
            Exception: What `requests` raises, after the responses to the earlier messages.
        """
        failures: list[Exception] = []

        async def caught() -> AsyncIterator[pb.IngestRequest]:
            try:
                async for request in requests:
                    yield request
            except Exception as error:  # gRPC would hide it
                failures.append(error)

        pending = AsyncResendBuffer(caught())
        retry = Retry(self._deadline)
        try:
            while True:
                coordinator = self._coordinators.next()
                try:
                    with tracing.calling("Ingest") as metadata:
                        send = coordinator.stub.Ingest
                        left = seconds_until(self._deadline)
                        async for response in send(pending.stream(), timeout=left, metadata=metadata):
                            retry.reset()
                            pending.acknowledge()
                            yield response
                    break
                except grpc.RpcError as failure:
                    error = self._calls.explain(failure, coordinator.address)
                if self._coordinators.failed(coordinator, error):
                    continue
                if not retry.failures:
                    retry.deadline = min(self._deadline, self._calls.deadline())
                await retry.wait_async(error)
        finally:
            await pending.close()
        if failures:
            raise failures[0]
