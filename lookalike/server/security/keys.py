"""Owns API keys: their file, how a key is issued, rotated and removed, and what it permits.

    {"keys": [{"name": "shop", "grants": {"photos": "write"}, "rate": 100,
               "secrets": [{"id": "...", "sha256": "...", "expires": null}]}]}

A key has the form `lk_ID_SECRET`. The file has only its SHA-256: the secret is 256 random bits, which cannot be
guessed, so no slow hash is needed. A rotated key has two secrets until the old one expires."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

from lookalike.files.atomic import atomic_write
from lookalike.model.errors import CannotStart, InvalidRequest, NotFound
from lookalike.model.records import check_collection_name

Role = Literal["search", "write", "admin"]
ROLES: tuple[Role, ...] = ("search", "write", "admin")
EVERY_COLLECTION = "*"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEY = re.compile(r"lk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Secret:
    """The stored part of one issued key. expires: seconds since 1970, or None."""

    id: str
    sha256: str
    expires: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A named key.

    Attributes:
        name: Its holder.
        grants: Role by collection, `*` for every collection. Write includes search; admin includes both.
        rate: Queries, records and keys per second; None for no limit.
        secrets: The newest first.
    """

    name: str
    grants: Mapping[str, Role]
    rate: float | None = None
    secrets: Sequence[Secret] = ()

    def role_for(self, collection: str) -> Role | None:
        found = [self.grants[name] for name in (collection, EVERY_COLLECTION) if name in self.grants]
        return max(found, key=ROLES.index, default=None)

    def may(self, role: Role, collection: str) -> bool:
        held = self.role_for(collection)
        return held is not None and ROLES.index(held) >= ROLES.index(role)


class KeyRing:
    """The keys of a file."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self.keys = {key.name: key for key in keys}
        self._by_id = {secret.id: (secret, key) for key in keys for secret in key.secrets}

    def holder(self, presented: str, now: float) -> Key | None:
        """Finds the key that a caller presented, in a time that does not depend on the secret.

        Args:
            presented: The key as it was sent.
            now: Seconds since 1970.

        Returns:
            The key; None if it is unknown or expired.
        """
        match = _KEY.fullmatch(presented)
        known = self._by_id.get(match[1]) if match else None
        is_right = hmac.compare_digest(_digest(presented), known[0].sha256 if known else _NOBODY)
        if known is None or not is_right:
            return None
        secret, key = known
        return key if secret.expires is None or now < secret.expires else None

    def added(self, name: str, grants: Mapping[str, Role], rate: float | None) -> tuple[Self, str]:
        """Returns a ring with one more key, and the issued key, which is stored nowhere. Raises InvalidRequest."""
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"name: {name!r:.80} is not a valid name; use 1..63 letters, digits, '.', '_' and '-'"
            )
        if name in self.keys:
            raise InvalidRequest(f"name: {name!r} has a key; rotate it, or remove it first")
        if not grants:
            raise InvalidRequest("grant: is missing; name a role and a collection, as in --grant search:photos")
        if rate is not None and not 0 < rate < math.inf:
            raise InvalidRequest(f"rate: is {rate}; use a number per second above 0, or omit it for no limit")
        secret, issued = _issue()
        return self._with(Key(name, grants, rate, (secret,))), issued

    def rotated(self, name: str, keep_seconds: float, now: float) -> tuple[Self, str]:
        """Returns a ring with a new secret for a key, and the issued key. Older secrets expire after
        `keep_seconds`. Raises NotFound."""
        key = self._get(name)
        until = now + keep_seconds
        old = [
            dataclasses.replace(secret, expires=min(until, secret.expires or math.inf))
            for secret in key.secrets
            if keep_seconds > 0 and (secret.expires is None or secret.expires > now)
        ]
        secret, issued = _issue()
        return self._with(dataclasses.replace(key, secrets=(secret, *old))), issued

    def removed(self, name: str) -> Self:
        """Returns a ring without a key. Raises NotFound."""
        self._get(name)
        return type(self)([key for key in self.keys.values() if key.name != name])

    def _get(self, name: str) -> Key:
        if name not in self.keys:
            raise NotFound(f"name: there is no key {name!r:.80}; `lookalike keys list` shows them")
        return self.keys[name]

    def _with(self, key: Key) -> Self:
        return type(self)([*(other for other in self.keys.values() if other.name != key.name), key])


def parse_grant(text: str) -> tuple[str, Role]:
    """Parses "ROLE:COLLECTION", or "ROLE" for every collection, into (collection, role). Raises InvalidRequest."""
    role, _, collection = text.partition(":")
    if role not in ROLES:
        raise InvalidRequest(
            f"grant: {text!r:.80} has no role; write ROLE:COLLECTION, ROLE one of {', '.join(ROLES)}"
        )
    if not collection:
        return EVERY_COLLECTION, role
    try:
        return check_collection_name(collection), role
    except InvalidRequest:
        raise InvalidRequest(
            f"grant: {collection!r:.80} is not a valid collection name; write one name, or omit it for every"
            " collection"
        ) from None


def load_keys(path: Path) -> KeyRing:
    """Reads a key file. Raises CannotStart, which never quotes a secret."""
    try:
        document = json.loads(path.read_bytes())
        return KeyRing([_read_key(entry) for entry in document["keys"]])
    except OSError as error:
        raise CannotStart(
            f"config: security.keys: {path} cannot be read ({error.strerror}); `lookalike keys add` creates it"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise CannotStart(f"config: security.keys: {path} is not a file made by `lookalike keys`") from None


def save_keys(path: Path, ring: KeyRing) -> None:
    """Writes a key file. A new one is readable by its owner only; a replaced one keeps its owner and mode, as the
    processes that read it may run as another user. Raises InvalidRequest."""
    document = {"keys": [dataclasses.asdict(key) for key in ring.keys.values()]}
    try:
        with atomic_write(path, mode=0o600) as file:
            file.write(json.dumps(document, indent=1).encode())
    except OSError as error:
        raise InvalidRequest(f"file: {path} cannot be written: {error.strerror}") from None


def describe(key: Key, now: float) -> dict[str, Any]:
    """The fields of a key that may be shown: all but its hashes."""
    return {
        "name": key.name,
        "grants": dict(key.grants),
        "rate": key.rate,
        "secrets": [
            {"id": secret.id, "expires": secret.expires and _moment(secret.expires)}
            for secret in key.secrets
            if secret.expires is None or secret.expires > now
        ],
    }


def _read_key(entry: Any) -> Key:
    grants = {str(name): _role(role) for name, role in entry["grants"].items()}
    rate = entry.get("rate")
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(rate)
    return Key(str(entry["name"]), grants, rate, tuple(map(_read_secret, entry["secrets"])))


def _read_secret(entry: Any) -> Secret:
    expires = entry.get("expires")
    if expires is not None:
        _moment(expires)  # refuses an invalid time
    if not _SHA256.fullmatch(entry["sha256"]):
        raise ValueError(entry["id"])
    return Secret(str(entry["id"]), entry["sha256"], expires)


def _role(role: Any) -> Role:
    if role not in ROLES:
        raise ValueError(role)
    return cast(Role, role)


def _issue() -> tuple[Secret, str]:
    name = secrets.token_hex(6)
    issued = f"lk_{name}_{secrets.token_urlsafe(32)}"
    return Secret(name, _digest(issued)), issued


def _digest(presented: str) -> str:
    return hashlib.sha256(presented.encode(errors="replace")).hexdigest()


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
