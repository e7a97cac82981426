"""Owns the access control of a server: authentication, authorization and the rate limit of each API key.

An authorizer does not depend on gRPC: it gets a method's name, the call's metadata and the request, and raises an
error for a call that is not allowed."""

from __future__ import annotations

import contextvars
import hmac
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lookalike.files.watched import Watched, read_file
from lookalike.model.errors import CannotStart, Overloaded, PermissionDenied, Unauthenticated
from lookalike.server.security.keys import EVERY_COLLECTION, Key, KeyRing, Role, load_keys
from lookalike.server.token_bucket import TokenBucket
from lookalike.transport.rpc import AUTHORIZATION_KEY

SECRET_KEY = "lookalike-cluster-secret"
_BEARER = "bearer"
MIN_SECRET_BYTES = 32

# The role that a method needs. A method that is not listed is refused for every key, so a new method stays closed
# until it is added here.
_ROLES: Mapping[str, Role] = {
    "Search": "search",
    "SearchBatch": "search",
    "Get": "search",
    "Exists": "search",
    "Count": "search",
    "Scroll": "search",
    "Facets": "search",
    "GetCollection": "search",
    "ListCollections": "search",
    "ListAliases": "search",
    "ClusterStatus": "search",
    "Upsert": "write",
    "Ingest": "write",
    "Delete": "write",
    "DeleteByFilter": "write",
    "SetAttributes": "write",
    "CreateCollection": "admin",
    "DropCollection": "admin",
    "CreateAlias": "admin",
    "SwitchAlias": "admin",
    "DeleteAlias": "admin",
    "RenameCollection": "admin",
    "SetTtl": "admin",
    "CopyRecords": "admin",
    "Backup": "admin",
    "Restore": "admin",
    "Drain": "admin",
}
# Any key may call these methods; the answer covers only the collections that the key may see.
_ANY_KEY = frozenset({"ListCollections", "ListAliases", "ClusterStatus"})
# The request fields that name collections, all of which the key must permit, and the request fields whose items
# count towards a key's rate.
_COLLECTION_FIELDS = ("collection", "name", "new_name", "alias", "target")
_COUNTED_FIELDS = ("queries", "records", "keys")

log = logging.getLogger("lookalike.security")
_caller: contextvars.ContextVar[Key | None] = contextvars.ContextVar("caller", default=None)


class Authorizer(Protocol):
    """Checks every call of a server."""

    def authenticate(self, method: str, metadata: Mapping[str, str]) -> Key | None:
        """Identifies the caller: when a call begins, and again for each request of a stream.

        Returns:
            The caller's key; None if the server requires no key.

        Raises:
            Unauthenticated: If the metadata has no valid key or secret.
        """

    def authorize(self, method: str, key: Key | None, request: Any) -> float:
        """Checks one request.

        Args:
            method: The method's name, without its service.
            key: The key that `authenticate` returned.
            request: The request message.

        Returns:
            0, or the seconds to wait if the request exceeds the key's rate.

        Raises:
            PermissionDenied: If the key does not permit the method on the collection.
        """


class ClusterAuthorizer:
    """Accepts the cluster's own processes: they send the cluster's secret."""

    def __init__(self, secrets: ClusterSecret) -> None:
        self._secrets = secrets

    def authenticate(self, method: str, metadata: Mapping[str, str]) -> None:
        if not self._secrets.accepts(metadata.get(SECRET_KEY, "")):
            raise Unauthenticated(
                f"{method}: is for the cluster's own processes (security.cluster_secret); call a coordinator"
            )

    def authorize(self, method: str, key: Key | None, request: Any) -> float:
        return 0.0


class KeyAuthorizer:
    """Accepts callers that send an API key, and limits each caller to its key's roles, collections and rate. While
    the file of keys has no key, every caller may do everything."""

    def __init__(
        self,
        ring: Callable[[], KeyRing],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._clock = clock
        self._wall_clock = wall_clock
        self._buckets: dict[str, TokenBucket] = {}

    def authenticate(self, method: str, metadata: Mapping[str, str]) -> Key | None:
        return self._holder(metadata) if self._ring().keys else None

    def authorize(self, method: str, key: Key | None, request: Any) -> float:
        if key is None:
            return 0.0
        role = _ROLES.get(method)
        named = [] if method in _ANY_KEY else _collections_of(request)
        refused = [name for name in named if role is None or not key.may(role, name)]
        if role is None or refused:
            collection = refused[0] if refused else EVERY_COLLECTION
            place = f"collection {collection!r:.80}" if collection != EVERY_COLLECTION else "the whole cluster"
            raise PermissionDenied(f"key {key.name!r}: may not {method} on {place}; that needs role {role}")
        _caller.set(key)
        return self._wait(key, _count_of(request))

    def _holder(self, metadata: Mapping[str, str]) -> Key:
        presented = metadata.get(AUTHORIZATION_KEY, "")
        if not presented:
            raise Unauthenticated(
                "authorization: the call has no API key; send `Bearer KEY` (Client(..., api_key=KEY))"
            )
        scheme, _, rest = presented.partition(" ")
        key = self._ring().holder(rest if scheme.lower() == _BEARER else presented, self._wall_clock())
        if key is None:
            raise Unauthenticated("authorization: the API key is unknown or expired; ask for another")
        return key

    def _wait(self, key: Key, count: int) -> float:
        if key.rate is None:
            return 0.0
        bucket = self._buckets.get(key.name)
        if bucket is None or bucket.rate != key.rate:
            bucket = self._buckets[key.name] = TokenBucket(key.rate, clock=self._clock)
        return bucket.try_take(count)


class ClusterSecret:
    """The secret that the cluster's processes send each other: the first line of a file. A server also accepts the
    secrets on the further lines, so that the secret can be rotated while the cluster runs."""

    def __init__(self, path: Path) -> None:
        self.lines = Watched([path], lambda: _read_secrets(path))

    @property
    def shown(self) -> str:
        return self.lines.value[0]

    def accepts(self, presented: str) -> bool:
        data = presented.encode(errors="replace")
        return sum(hmac.compare_digest(data, line.encode()) for line in self.lines.value) > 0


def key_authorizer(path: Path | None) -> KeyAuthorizer | None:
    """The authorizer of a coordinator. path: the file of API keys; None for no authorization. Raises CannotStart
    if the file cannot be read or is invalid."""
    if path is None:
        return None
    ring = Watched([path], lambda: load_keys(path))
    if not ring.value.keys:
        log.warning("%s has no key yet: every caller may do everything", path)
    return KeyAuthorizer(lambda: ring.value)


def visible(names: Iterable[str]) -> set[str]:
    """Those of the collections `names` that the caller of the current request may see."""
    key = _caller.get()
    return {name for name in names if key is None or key.may("search", name)}


def rate_exceeded(wait_seconds: float) -> Overloaded:
    """The error for a request that exceeds its key's rate."""
    return Overloaded(
        "rate: the API key's rate is exhausted; retry after the delay that this error gives, or ask for a higher"
        " rate",
        retry_after_ms=max(1, round(wait_seconds * 1000)),
    )


def _collections_of(request: Any) -> list[str]:
    named = [str(name) for field in _COLLECTION_FIELDS if (name := getattr(request, field, ""))]
    return named or [EVERY_COLLECTION]


def _count_of(request: Any) -> int:
    return max([1, *(len(getattr(request, field, ())) for field in _COUNTED_FIELDS)])


def _read_secrets(path: Path) -> list[str]:
    lines = read_file(path, "security.cluster_secret").decode("ascii", errors="replace").split()
    remedy = f"use {MIN_SECRET_BYTES} or more ASCII characters, made with: openssl rand -hex 32 > {path}"
    if not lines:
        raise CannotStart(f"config: security.cluster_secret: {path} is empty; {remedy}")
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            raise CannotStart(
                f"config: security.cluster_secret: {path}: secret {number} has other characters than ASCII;"
                f" {remedy}"
            )
        if len(line) < MIN_SECRET_BYTES:
            raise CannotStart(
                f"config: security.cluster_secret: {path}: secret {number} has {len(line)} characters; {remedy}"
            )
    return lines
