"""Owns the gates that a server puts before its methods: who the caller is, whether they may, and how fast.

A gate knows nothing of gRPC: it gets a method's name, what the call bears and the request, and raises."""

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
from lookalike.transport.rpc import AUTHORIZATION_KEY

SECRET_KEY = "lookalike-cluster-secret"
_BEARER = "bearer"
MIN_SECRET_BYTES = 32

# What a method is for. A method that is not here is refused to everyone, so that a new one cannot be forgotten.
_ROLES: Mapping[str, Role] = {
    "Search": "search",
    "SearchBatch": "search",
    "Get": "search",
    "GetCollection": "search",
    "ListCollections": "search",
    "ClusterStatus": "search",
    "Upsert": "write",
    "Ingest": "write",
    "Delete": "write",
    "CreateCollection": "admin",
    "DropCollection": "admin",
    "Backup": "admin",
    "Restore": "admin",
    "Drain": "admin",
}
# Anyone with a key may see these, as far as their collections go.
_OF_NO_COLLECTION = frozenset({"ListCollections", "ClusterStatus"})
# The names under which requests have the collection and what the rate counts.
_COLLECTION_FIELDS = ("collection", "name")
_COUNTED_FIELDS = ("queries", "records", "keys")

log = logging.getLogger("lookalike.security")
_caller: contextvars.ContextVar[Key | None] = contextvars.ContextVar("caller", default=None)


class Gate(Protocol):
    """Stands before every method of a server."""

    def enter(self, method: str, bearing: Mapping[str, str]) -> Key | None:
        """A call begins, or goes on. Returns the key that it bears, if it needs one. Raises Unauthenticated."""

    def pass_request(self, method: str, key: Key | None, request: Any) -> float:
        """A request of the call is there; key: of its `enter`. Returns 0, or the seconds after which one that
        comes too fast may ask again. Raises PermissionDenied."""


class ClusterAuthorizer:
    """Lets the cluster's own processes in, who know its secret."""

    def __init__(self, secrets: ClusterSecret) -> None:
        self._secrets = secrets

    def enter(self, method: str, bearing: Mapping[str, str]) -> None:
        if not self._secrets.accepts(bearing.get(SECRET_KEY, "")):
            raise Unauthenticated(
                f"{method}: is for the cluster's own processes (security.cluster_secret); call a coordinator"
            )

    def pass_request(self, method: str, key: Key | None, request: Any) -> float:
        return 0.0


class KeyGate:
    """Lets those in who have an API key, to what it is for, as fast as it says; everyone, as long as there is no
    key at all."""

    def __init__(
        self,
        ring: Callable[[], KeyRing],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._clock = clock
        self._wall_clock = wall_clock
        self._buckets: dict[str, Bucket] = {}

    def enter(self, method: str, bearing: Mapping[str, str]) -> Key | None:
        return self._holder(bearing) if self._ring().keys else None

    def pass_request(self, method: str, key: Key | None, request: Any) -> float:
        if key is None:
            return 0.0
        role = _ROLES.get(method)
        collection = EVERY_COLLECTION if method in _OF_NO_COLLECTION else _collection_of(request)
        if role is None or not (method in _OF_NO_COLLECTION or key.may(role, collection)):
            place = f"collection {collection!r:.80}" if collection != EVERY_COLLECTION else "the whole cluster"
            raise PermissionDenied(f"key {key.name!r}: may not {method} on {place}; that takes role {role}")
        _caller.set(key)
        return self._wait(key, _count_of(request))

    def _holder(self, bearing: Mapping[str, str]) -> Key:
        presented = bearing.get(AUTHORIZATION_KEY, "")
        if not presented:
            raise Unauthenticated(
                "authorization: no API key came with the call; send `Bearer KEY` (Client(..., api_key=KEY))"
            )
        scheme, _, rest = presented.partition(" ")
        key = self._ring().holder(rest if scheme.lower() == _BEARER else presented, self._wall_clock())
        if key is None:
            raise Unauthenticated("authorization: the API key is not known here, or has run out; ask for another")
        return key

    def _wait(self, key: Key, count: int) -> float:
        if key.rate is None:
            return 0.0
        bucket = self._buckets.get(key.name)
        if bucket is None or bucket.rate != key.rate:
            bucket = self._buckets[key.name] = Bucket(key.rate, self._clock())
        return bucket.take(count, self._clock())


class Bucket:
    """So many a second, and a second's worth at once. What is asked for in one piece passes whole once the bucket
    is not empty, and the next waits until that is paid off."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._level = rate
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Take `count` if there is anything. Returns 0, or the seconds until there is."""
        self._level = min(self.rate, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level <= 0:
            return -self._level / self.rate + 1 / self.rate
        self._level -= count
        return 0.0


class ClusterSecret:
    """What the cluster's processes show each other: the first line of a file. Each further line is accepted too,
    so that a new one can be brought in while the cluster runs."""

    def __init__(self, path: Path) -> None:
        self.lines = Watched([path], lambda: _read_secrets(path))

    @property
    def shown(self) -> str:
        return self.lines.value[0]

    def accepts(self, presented: str) -> bool:
        data = presented.encode(errors="replace")
        return sum(hmac.compare_digest(data, line.encode()) for line in self.lines.value) > 0


def key_gate(path: Path | None) -> KeyGate | None:
    """The gate of a coordinator whose config names this file of keys, or none. Raises CannotStart."""
    if path is None:
        return None
    ring = Watched([path], lambda: load_keys(path))
    if not ring.value.keys:
        log.warning("%s holds no key yet: everyone may do everything", path)
    return KeyGate(lambda: ring.value)


def visible(names: Iterable[str]) -> set[str]:
    """Those collections that the caller of the running call may know of."""
    key = _caller.get()
    return {name for name in names if key is None or key.may("search", name)}


def refusal(wait_seconds: float) -> Overloaded:
    """What a request is told that comes faster than its key allows."""
    return Overloaded(
        "rate: the API key's rate is used up; wait as long as retry-after says, or ask for a higher rate",
        retry_after_ms=max(1, round(wait_seconds * 1000)),
    )


def _collection_of(request: Any) -> str:
    for field in _COLLECTION_FIELDS:
        if name := getattr(request, field, ""):
            return str(name)
    return EVERY_COLLECTION


def _count_of(request: Any) -> int:
    return max([1, *(len(getattr(request, field, ())) for field in _COUNTED_FIELDS)])


def _read_secrets(path: Path) -> list[str]:
    lines = read_file(path, "security.cluster_secret").decode("ascii", errors="replace").split()
    if not lines or any(len(line) < MIN_SECRET_BYTES or not line.isascii() for line in lines):
        raise CannotStart(
            f"config: security.cluster_secret: {path} must have a line of {MIN_SECRET_BYTES} or more ASCII"
            " characters; make one with: openssl rand -hex 32"
        )
    return lines
