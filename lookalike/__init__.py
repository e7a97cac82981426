"""Lookalike's client. `Client` and `AsyncClient` talk to a cluster's coordinators; `Record`, `Hit`,
`Coverage` and `SearchResult` are what goes in and comes out; `lookalike.errors` is what can go wrong."""

from lookalike.client.async_client import AsyncClient
from lookalike.client.sync_client import Client
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import LookalikeError
from lookalike.model.records import (
    ClusterStatus,
    Collection,
    Coverage,
    Hit,
    Outcome,
    Record,
    SearchResult,
    StoredRecord,
)
from lookalike.model.search_options import SearchOptions
from lookalike.transport.tls import Tls

__all__ = [
    "AsyncClient",
    "Client",
    "ClusterStatus",
    "CodeSpace",
    "Collection",
    "Coverage",
    "Hit",
    "LookalikeError",
    "Outcome",
    "Record",
    "SearchOptions",
    "SearchResult",
    "StoredRecord",
    "Tls",
]
