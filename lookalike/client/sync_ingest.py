"""Owns one ingest stream of `Client`.

Generated from sync_ingest.py by scripts/unasync.py (`make client`): change that file, not this one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import grpc

from lookalike.client.calls import Calls, seconds_until
from lookalike.client.endpoints import Coordinators
from lookalike.client.resend_buffer import ResendBuffer
from lookalike.transport import tracing
from lookalike.transport.retry import Retry
from lookalike.v1 import search_pb2 as pb


class IngestStream:
    """Sends the messages of one call to `ingest`.

    Args:
        coordinators: Where to send them.
        calls: Explains failures, and knows how long to wait for a coordinator.
        timeout: Seconds for the whole stream; None for no limit.
    """

    def __init__(self, coordinators: Coordinators, calls: Calls, timeout: float | None) -> None:
        self._coordinators = coordinators
        self._calls = calls
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout

    def responses(self, requests: Iterator[pb.IngestRequest]) -> Iterator[pb.IngestResponse]:
        """Yields the response to each message, in order.

        Raises:
            Exception: What `requests` raises, after the responses to the earlier messages.
        """
        failures: list[Exception] = []

        def caught() -> Iterator[pb.IngestRequest]:
            try:
                yield from requests
            except Exception as error:  # gRPC would hide it
                failures.append(error)

        pending = ResendBuffer(caught())
        retry = Retry(self._deadline)
        try:
            while True:
                coordinator = self._coordinators.next()
                try:
                    with tracing.calling("Ingest") as metadata:
                        send = coordinator.stub.Ingest
                        left = seconds_until(self._deadline)
                        for response in send(pending.stream(), timeout=left, metadata=metadata):
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
                retry.wait(error)
        finally:
            pending.close()
        if failures:
            raise failures[0]
