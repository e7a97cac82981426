"""Lookalike's client. `Client` and `AsyncClient` talk to a cluster's coordinators; `Record`, `Hit`,
`Coverage` and `SearchResult` are what goes in and comes out; `lookalike.errors` is what can go wrong."""

from lookalike.async_client import AsyncClient
from lookalike.client import Client
from lookalike.codespace import CodeSpace
from lookalike.errors import LookalikeError
from lookalike.records import (
    ClusterStatus,
    Collection,
    Coverage,
    Hit,
    Outcome,
    Record,
    SearchResult,
    StoredRecord,
)
from lookalike.security.tls import Tls

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
    "SearchResult",
    "StoredRecord",
    "Tls",
]
