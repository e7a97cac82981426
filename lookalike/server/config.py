"""Owns the cluster config: one typed tree, read from one YAML file and the environment.

`LOOKALIKE__PARTITIONS=3` and `LOOKALIKE__SHARD__DATA=...` override the file. Unknown keys and values out of range
raise CannotStart with the key's path. deploy/local.yaml explains every field.

pydantic-settings was considered for the environment: it ignores a misspelled top-level key
(LOOKALIKE__PARTITONS=3), which is an error here, and parses values as JSON, whereas this module parses YAML."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lookalike.model.codespace import MAX_BITS, MIN_BITS
from lookalike.model.errors import CannotStart
from lookalike.model.status import DEFAULT_ENCODER, encoder_path

_ENVIRONMENT_PREFIX = "LOOKALIKE__"
MAX_REPLICAS = 7
# How often to look for a changed config: a mounted config, as in Kubernetes, changes without a signal.
CONFIG_POLL_SECONDS = 2.0


def _check_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return address


def _check_shard_address(template: str) -> str:
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if not names <= {"partition", "replica"}:
        raise ValueError(f"{template!r} has a placeholder that is neither {{partition}} nor {{replica}}")
    _check_address(template.format(partition=0, replica=0))
    return template


def _check_bits(bits: int | None) -> int | None:
    if bits is not None and bits % 8:
        raise ValueError(f"{bits} is not a multiple of 8")
    return bits


def _check_encoder_names(encoders: dict[str, Any]) -> dict[str, Any]:
    for name in encoders:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) or name == DEFAULT_ENCODER:
            raise ValueError(
                f'{name!r} is not an encoder\'s name; use up to 63 lower-case letters, digits and "-", but not'
                f" {DEFAULT_ENCODER!r}"
            )
    return encoders


Address = Annotated[str, AfterValidator(_check_address)]
ShardAddress = Annotated[str, AfterValidator(_check_shard_address)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardConfig(_Section):
    address: ShardAddress = "127.0.0.1:17{replica}{partition:02d}"
    # The bind address, if it differs from `address`: "0.0.0.0:7710" in a container.
    listen: ShardAddress | None = None
    metrics: ShardAddress | None = "127.0.0.1:18{replica}{partition:02d}"
    data: Path = Path("lookalike-data")
    scan_threads: int = Field(default=1, ge=1, le=256)
    device: Literal["cpu", "cuda"] = "cpu"
    sync_seconds: float = Field(default=2.0, ge=0.1, le=3_600)
    rebalance_mb_per_second: float = Field(default=64.0, gt=0, le=100_000)
    tombstone_hours: float = Field(default=24.0, ge=0.01, le=24 * 365)
    scrub_hours: float = Field(default=24.0, gt=0, le=24 * 365)


class CoordinatorConfig(_Section):
    listen: Address = "127.0.0.1:7700"
    web: Address = "127.0.0.1:7780"
    metrics: Address | None = "127.0.0.1:7781"
    # How often to look for expired records, in collections with a TTL.
    ttl_seconds: float = Field(default=60.0, ge=0.1, le=86_400)
    # How many processes share `listen` and `web`. Each has a metrics port: that of `metrics` plus its number.
    processes: int = Field(default=1, ge=1, le=64)

    def metrics_of(self, process: int) -> str | None:
        """The metrics address of the process with this number, from 0."""
        if self.metrics is None:
            return None
        host, _, port = self.metrics.rpartition(":")
        return f"{host}:{int(port) + process}"


class EncoderConfig(_Section):
    address: Address = "127.0.0.1:7720"
    # The bind address, if it differs from `address`.
    listen: Address | None = None
    metrics: Address | None = "127.0.0.1:7721"
    model: str = "tf_efficientnet_lite0"
    weights: str | None = None
    layer: Literal["map", "pooled", "classifier"] = "pooled"
    # Chooses what other fields leave open: see encoder/purpose.py.
    purpose: Literal["duplicates", "category"] | None = None
    # None: the hash file's bits, or the purpose's without a hash file.
    bits: Annotated[int | None, Field(ge=MIN_BITS, le=MAX_BITS), AfterValidator(_check_bits)] = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    hash: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    min_replicas: int = Field(default=1, ge=1, le=1_000)
    max_replicas: int = Field(default=1, ge=1, le=1_000)
    gpus_per_replica: float = Field(default=0, ge=0, le=8)
    ray_address: str | None = None


class NamedEncoderConfig(EncoderConfig):
    """A further encoder. Its addresses have no defaults, because each encoder needs its own."""

    address: Address
    metrics: Address | None = None


class TlsConfig(_Section):
    """PEM files, read again when they change. `ca` signs the certificates of the cluster's own processes; shards
    and the encoder require such a certificate of their callers. `client_ca`, if set, signs the certificates of
    clients; the coordinator then requires one of every client."""

    certificate: Path
    key: Path
    ca: Path
    client_ca: Path | None = None
    # The name in a peer's certificate, if it is not the host of its address.
    server_name: str | None = None


class SecurityConfig(_Section):
    tls: TlsConfig | None = None
    # The file of API keys, made by `lookalike keys`; while it holds no key, every caller may do everything.
    keys: Path | None = None
    # A file with the secret that the cluster's processes send each other.
    cluster_secret: Path | None = None


class LimitsConfig(_Section):
    max_image_mb: int = Field(default=32, ge=1, le=32)
    max_image_megapixels: int = Field(default=100, ge=1, le=1_000)
    max_k: int = Field(default=10_000, ge=1, le=10_000)
    max_batch: int = Field(default=1_024, ge=1, le=1_024)

    @property
    def max_image_bytes(self) -> int:
        return self.max_image_mb * 2**20

    @property
    def max_image_pixels(self) -> int:
        return self.max_image_megapixels * 1_000_000


class TracingConfig(_Section):
    # The OTLP/gRPC endpoint for OpenTelemetry spans: "http://collector:4317".
    otlp: str | None = None
    sample: float = Field(default=1.0, ge=0, le=1)


class ClusterConfig(_Section):
    cluster: str = Field(default="local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    partitions: int = Field(default=4, ge=1, le=1_024)
    replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS)
    write_quorum: Literal["one", "majority", "all"] = "majority"
    # The limit on request bytes in flight in each process; a request above it is refused with a retry-after.
    max_request_mb: int = Field(default=512, ge=128, le=1_000_000)
    shard: ShardConfig = ShardConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()
    encoder: EncoderConfig | None = EncoderConfig()
    encoders: Annotated[dict[str, NamedEncoderConfig], AfterValidator(_check_encoder_names)] = {}
    security: SecurityConfig = SecurityConfig()
    limits: LimitsConfig = LimitsConfig()
    tracing: TracingConfig = TracingConfig()
    logs: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning"] = "info"

    @property
    def web_url(self) -> str:
        return f"{'https' if self.security.tls else 'http'}://{self.coordinator.web}"

    @property
    def all_encoders(self) -> dict[str, EncoderConfig]:
        """All encoders by name, the default one first."""
        default = {} if self.encoder is None else {DEFAULT_ENCODER: self.encoder}
        return {**default, **self.encoders}

    @property
    def max_request_bytes(self) -> int:
        return self.max_request_mb * 2**20

    @property
    def writes_needed(self) -> int:
        """The number of replicas that must have a write on disk before it is acknowledged."""
        return {"one": 1, "majority": self.replicas // 2 + 1, "all": self.replicas}[self.write_quorum]

    def shard_address(self, partition: int, replica: int = 0) -> str:
        return self.shard.address.format(partition=partition, replica=replica)

    def shard_listen(self, partition: int, replica: int = 0) -> str:
        return (self.shard.listen or self.shard.address).format(partition=partition, replica=replica)

    def shard_metrics(self, partition: int, replica: int = 0) -> str | None:
        return self.shard.metrics and self.shard.metrics.format(partition=partition, replica=replica)


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> ClusterConfig:
    """Reads the config in `path` with the environment's overrides. Raises CannotStart, naming the key."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotStart(f"config: {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CannotStart(f"config: {path} is not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise CannotStart(f"config: {path} holds a {type(document).__name__}, not a mapping of keys")
    _apply_environment(document, environment)
    try:
        config = ClusterConfig.model_validate(document)
    except ValidationError as error:
        raise CannotStart(f"config: {path}: " + "; ".join(_explain(error))) from None
    _check_consistency(config, path)
    return config


def content_of(path: Path) -> bytes | None:
    """The bytes of the file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def dump_config(config: ClusterConfig) -> str:
    """The config as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply_environment(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in sorted(environment.items()):
        if not name.startswith(_ENVIRONMENT_PREFIX):
            continue
        *sections, key = name.removeprefix(_ENVIRONMENT_PREFIX).lower().split("__")
        section = document
        for part in sections:
            inner = section.get(part)
            if not isinstance(inner, dict):
                inner = section[part] = {}
            section = inner
        try:
            section[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            section[key] = value


def _explain(error: ValidationError) -> Iterable[str]:
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"{path}: is not a known key; remove it or fix its spelling"
        else:
            yield f"{path}: {problem['msg'].removeprefix('Value error, ')} (is {problem['input']!r})"


def _check_consistency(config: ClusterConfig, path: Path) -> None:
    addresses = [
        config.shard_address(partition, replica)
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    ]
    if len(set(addresses)) < len(addresses):
        raise CannotStart(
            f"config: {path}: shard.address: {config.shard.address!r} gives two shards the same address;"
            " use {partition} (and {replica}) in it"
        )
    for address in addresses:
        try:
            _check_address(address)
        except ValueError as error:
            raise CannotStart(f"config: {path}: shard.address: {error}") from None
    _check_shared_ports(config.coordinator, path)
    by_address: dict[str, str] = {}
    for name, encoder in config.all_encoders.items():
        section = encoder_path(name)
        if encoder.min_replicas > encoder.max_replicas:
            raise CannotStart(
                f"config: {path}: {section}.min_replicas: {encoder.min_replicas} is above max_replicas"
                f" ({encoder.max_replicas})"
            )
        if (other := by_address.setdefault(encoder.address, section)) != section:
            raise CannotStart(
                f"config: {path}: {section}.address: {encoder.address!r} is that of {other} too; use another port"
            )


def _check_shared_ports(coordinator: CoordinatorConfig, path: Path) -> None:
    """Checks the ports of several processes: sockets that share a port do not notice that two fields name it."""
    if coordinator.processes == 1:
        return
    named = [("listen", coordinator.listen), ("web", coordinator.web)]
    every = (coordinator.metrics_of(process) for process in range(coordinator.processes))
    named += [("metrics", address) for address in every if address is not None]
    by_port: dict[int, str] = {}
    for name, address in named:
        port = int(address.rpartition(":")[2])
        if not 0 < port < 65_536 or (port < coordinator.processes and name == "metrics"):
            raise CannotStart(
                f"config: {path}: coordinator.{name}: {coordinator.processes} processes cannot use"
                f" {getattr(coordinator, name)!r}; name a port above 0, low enough to count the processes from it"
            )
        if (other := by_port.setdefault(port, name)) != name:
            raise CannotStart(
                f"config: {path}: coordinator.{name}: {address!r} is a port of coordinator.{other} too, with"
                f" {coordinator.processes} processes; use another port"
            )
