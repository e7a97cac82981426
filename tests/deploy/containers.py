"""Owns the description of a container: its command, environment, mounts and probes, taken unchanged from
Kubernetes objects or compose services."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.deploy.render import Document, image_environment


@dataclasses.dataclass(frozen=True)
class Probe:
    """Either a gRPC health check from outside, or a command in the container."""

    name: str
    port: int = 0
    service: str = ""
    command: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Container:
    """mounts: the folder outside for each folder inside; None for a new, empty one. names: its host names."""

    name: str
    component: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: Mapping[str, Path | None]
    names: tuple[str, ...]
    probes: tuple[Probe, ...]


def from_kubernetes(documents: list[Document], config: Path, secrets: Path, data: Path) -> Iterator[Container]:
    """The pods of shards and coordinators. config, secrets, data: folders that stand for the ConfigMap, the Secret
    and the claims."""
    coordinators = next(one for one in documents if one["kind"] == "HorizontalPodAutoscaler")["spec"][
        "minReplicas"
    ]
    for owner in documents:
        kind, name = owner["kind"], owner["metadata"]["name"]
        if kind == "StatefulSet":
            for ordinal in range(owner["spec"]["replicas"]):
                pod = f"{name}-{ordinal}"
                names = (f"{pod}.{owner['spec']['serviceName']}",)
                yield _pod(owner, pod, names, ordinal, config, secrets, data / pod)
        elif kind == "Deployment" and name == "coordinator":
            for number in range(coordinators):
                yield _pod(owner, f"{name}-{number}", (), number, config, secrets, None)


def _pod(
    owner: Document,
    name: str,
    names: tuple[str, ...],
    ordinal: int,
    config: Path,
    secrets: Path,
    data: Path | None,
) -> Container:
    spec = owner["spec"]["template"]["spec"]
    (one,) = spec["containers"]
    sources: dict[str, Path | None] = {}
    for volume in spec["volumes"]:
        if "configMap" in volume:
            assert volume["configMap"]["name"] == "lookalike"
            sources[volume["name"]] = config
        elif "secret" in volume:
            assert volume["secret"]["secretName"] == "lookalike"
            sources[volume["name"]] = secrets
        else:
            assert "emptyDir" in volume
            sources[volume["name"]] = None
    for claim in owner["spec"].get("volumeClaimTemplates", []):
        sources[claim["metadata"]["name"]] = data
    environment = {}
    for variable in one.get("env", []):
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        assert field in (None, "metadata.labels['apps.kubernetes.io/pod-index']")
        environment[variable["name"]] = str(ordinal) if field else variable["value"]
    command = [*one["command"], *one.get("args", [])]
    for key, value in environment.items():
        command = [word.replace(f"$({key})", value) for word in command]
    assert one["image"].startswith("lookalike:")
    probes = tuple(
        Probe(key, one[key]["grpc"]["port"], one[key]["grpc"].get("service", ""))
        for key in ("startupProbe", "livenessProbe", "readinessProbe")
    )
    return Container(
        name, owner["metadata"]["labels"]["app.kubernetes.io/component"], tuple(command),
        {**image_environment("services"), **environment},
        {mount["mountPath"]: sources[mount["name"]] for mount in one["volumeMounts"]}, names, probes,
    )  # fmt: skip


def from_compose(document: Document, data: Path) -> Iterator[Container]:
    """The services of shards and coordinators. data: the folder that stands for all volumes."""
    for name, service in document["services"].items():
        component = name.split("-")[0]
        if component not in ("shard", "coordinator"):
            continue
        mounts: dict[str, Path | None] = {
            one["target"]: Path(one["source"]) if one["type"] == "bind" else data / one["source"]
            for one in service["volumes"]
        }
        mounts.update(dict.fromkeys(service["tmpfs"]))
        kind, *check = service["healthcheck"]["test"]
        assert kind == "CMD"
        environment = {**image_environment("services"), **service.get("environment", {})}
        yield Container(
            name, component, tuple(service["command"]), environment, mounts, (name,),
            (Probe("healthcheck", command=tuple(check)),),
        )  # fmt: skip
