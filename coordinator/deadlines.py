"""Owns the deadlines of calls to the coordinator."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

SEARCH_SECONDS = 10.0
WRITE_SECONDS = 30.0


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], default_seconds: float) -> float:
    """The call's deadline as a time on the event loop's clock; in `default_seconds` if the client set none."""
    remaining = context.time_remaining()
    return asyncio.get_running_loop().time() + (default_seconds if remaining is None else remaining)
