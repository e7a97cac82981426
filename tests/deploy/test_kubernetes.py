"""The objects that kubectl builds from the overlays are valid, closed and consistent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from lookalike.server.config import load_config
from tests.command import lookalike
from tests.deploy.render import DEPLOY, OVERLAYS, Document, copied, kustomize, of_kind

SCHEMA = yaml.safe_load((Path(__file__).parent / "rayservice.schema.yaml").read_text())
MODELS = {"PrometheusRule": PrometheusRule, "ServiceMonitor": ServiceMonitor}


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return kustomize(DEPLOY / "kubernetes/overlays" / request.param)


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Every pod template, with a name for it."""

    def walk(at: str, node: Any) -> Iterator[tuple[str, Document]]:
        if isinstance(node, dict):
            if "containers" in node.get("spec", {}) and "template" in at:
                yield at, node
            for key, value in node.items():
                yield from walk(f"{at}/{key}", value)
        elif isinstance(node, list):
            for number, value in enumerate(node):
                yield from walk(f"{at}/{number}", value)

    for one in documents:
        yield from walk(f"{one['kind']}/{one['metadata']['name']}", one)


def test_every_object_is_valid(documents: list[Document]) -> None:
    for one in documents:
        if one["kind"] == "RayService":
            jsonschema.validate(one, SCHEMA)
        elif one["kind"] in MODELS:
            model = MODELS[one["kind"]].model_validate(one)
            # The models accept unknown fields but drop them, so they would be missing here.
            assert model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True) == one
        else:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_every_pod_is_valid_and_of_the_restricted_profile(documents: list[Document]) -> None:
    found = list(pods(documents))
    assert len(found) >= 3
    for at, template in found:
        metadata = {**template.get("metadata", {}), "name": "pod"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], at
        assert spec["securityContext"]["runAsUser"] == 10001, at
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, at
        assert not spec["enableServiceLinks"], at
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, at
            assert "memory" in container["resources"]["limits"], at


def test_containers_that_start_ray_declare_their_processors(documents: list[Document]) -> None:
    """Ray starts a process for each processor; on a machine with 64 they would exceed the memory limit."""
    for at, template in pods(documents):
        for container in template["spec"]["containers"]:
            if container["image"].startswith("lookalike-encoder:") and "command" in container:
                assert "cpu" in container["resources"]["limits"], at


def test_configs_are_valid_and_name_existing_services(documents: list[Document], tmp_path: Path) -> None:
    """Shards are pods of the StatefulSets behind a headless service; the encoder is a service."""
    path = tmp_path / "lookalike.yaml"
    path.write_text(of_kind(documents, "ConfigMap")["lookalike"]["data"]["lookalike.yaml"])
    config = load_config(path, environment={})
    services = of_kind(documents, "Service")
    pods_of_shards = {
        f"{name}-{ordinal}.{one['spec']['serviceName']}:7710"
        for name, one in of_kind(documents, "StatefulSet").items()
        for ordinal in range(one["spec"]["replicas"])
    }
    assert pods_of_shards == {
        config.shard_address(partition, replica)
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    }
    assert services["shard"]["spec"]["clusterIP"] == "None"
    assert services["shard"]["spec"]["publishNotReadyAddresses"]
    assert config.encoder is not None
    host, port = config.encoder.address.split(":")
    assert {"name": "grpc", "port": int(port)}.items() <= services[host]["spec"]["ports"][0].items()


def test_every_service_budget_and_policy_selects_existing_pods(documents: list[Document]) -> None:
    labels = [template.get("metadata", {}).get("labels", {}) for _, template in pods(documents)]
    # Labels that Kubernetes and KubeRay add.
    added = {"apps.kubernetes.io/pod-index", "ray.io/group"}
    for kind, path in (
        ("Service", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        for name, one in of_kind(documents, kind).items():
            selector = one["spec"][path]
            wanted = selector.get("matchLabels", {}) if kind != "Service" else selector
            own = {key: value for key, value in wanted.items() if key not in added}
            assert any(own.items() <= have.items() for have in labels), f"{kind}/{name} selects nothing"


def test_ray_pods_keep_the_name_that_kuberay_gives_them(documents: list[Document]) -> None:
    """KubeRay's Service for a RayService's head selects app.kubernetes.io/name: kuberay. The Service of its
    RayCluster takes the pods' name, so with another name our ServiceMonitor would try to scrape Ray's own metrics
    and fail (kuberay ray-operator/controllers/ray/common/service.go, BuildHeadServiceForRayService)."""
    for at, template in pods([one for one in documents if one["kind"] == "RayService"]):
        assert template["metadata"]["labels"] == {"app.kubernetes.io/component": "encoder"}, at
    scraped = {
        name
        for name, one in of_kind(documents, "Service").items()
        if any(port["name"] == "metrics" for port in one["spec"]["ports"])
    }
    assert scraped == {"shard", "coordinators", "encoder"}


def test_dns_egress_is_allowed_everywhere(documents: list[Document]) -> None:
    """A cache on the node answers from an address that no selector of pods matches."""
    for name, one in of_kind(documents, "NetworkPolicy").items():
        if "Egress" in one["spec"]["policyTypes"]:
            dns = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
            assert {"ports": dns} in one["spec"]["egress"], name


def test_only_the_cluster_reaches_a_shard(documents: list[Document]) -> None:
    policies = of_kind(documents, "NetworkPolicy")
    assert policies["deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    grpc = [rule for rule in policies["shard"]["spec"]["ingress"] if {"port": 7710} in rule["ports"]]
    assert [
        expression["values"]
        for rule in grpc
        for peer in rule["from"]
        for expression in peer["podSelector"]["matchExpressions"]
    ] == [["lookalike"], ["shard", "coordinator"]]


def test_running_processes_see_a_changed_config(documents: list[Document]) -> None:
    """The ConfigMap keeps its name and is mounted as a folder: with subPath a pod would keep the old one."""
    assert "lookalike" in of_kind(documents, "ConfigMap")
    for at, template in pods(documents):
        for container in template["spec"]["containers"]:
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts["config"] == {"name": "config", "mountPath": "/etc/lookalike", "readOnly": True}, at


def test_the_ingestion_job_runs_an_existing_command() -> None:
    """Unknown options are rejected even if --help follows them."""
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes/components/ingest/ingest.yaml").read_text()))
    template = of_kind(documents, "CronJob")["ingest"]["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    program, *command = container["command"]
    assert program == "lookalike"
    code, _, said = lookalike(*command, *container["args"], "--help")
    assert code == 0, said


def test_the_ingestion_job_runs_the_nightly_jobs_command_once() -> None:
    (job,) = kustomize(DEPLOY / "kubernetes/jobs/ingest")
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    assert (job["kind"], job["metadata"]["namespace"]) == ("Job", "lookalike")
    jobs = of_kind(kustomize(DEPLOY / "kubernetes/overlays/production"), "CronJob")
    nightly = jobs["ingest"]["spec"]["jobTemplate"]["spec"]
    (own,), (other,) = (spec["template"]["spec"]["containers"] for spec in (job["spec"], nightly))
    assert all(one.keys() == {"name", "value"} for one in own["env"]), "what to read stands in its own folder"
    assert [one["name"] for one in own["env"]] == [one["name"] for one in other["env"]]
    own["env"] = other["env"]
    assert job["spec"] == nightly


def test_no_secret_is_in_the_manifests(documents: list[Document]) -> None:
    assert not of_kind(documents, "Secret")


def test_a_cluster_can_form_and_its_disks_stay(documents: list[Document]) -> None:
    for one in of_kind(documents, "StatefulSet").values():
        assert one["spec"]["podManagementPolicy"] == "Parallel"
        retention = {"whenDeleted": "Retain", "whenScaled": "Retain"}
        assert one["spec"]["persistentVolumeClaimRetentionPolicy"] == retention
        budget = of_kind(documents, "PodDisruptionBudget")
        assert all(f"shard-partition-{ordinal}" in budget for ordinal in range(one["spec"]["replicas"]))


def test_a_drain_may_evict_one_replica_of_each_partition(documents: list[Document]) -> None:
    """And no more, computed as Kubernetes does. maxUnavailable would be relative to the total scale of all
    StatefulSets that the pods belong to, including other partitions' pods; minAvailable counts pods."""
    scales = [one["spec"]["replicas"] for one in of_kind(documents, "StatefulSet").values()]
    for partition in range(max(scales)):
        budget = of_kind(documents, "PodDisruptionBudget")[f"shard-partition-{partition}"]["spec"]
        healthy = sum(scale > partition for scale in scales)
        desired = budget.get("minAvailable", sum(scales) - budget.get("maxUnavailable", 0))
        assert healthy - desired == 1


def test_a_pod_that_never_becomes_ready_does_not_block_a_drain(documents: list[Document]) -> None:
    for name, budget in of_kind(documents, "PodDisruptionBudget").items():
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", name


@pytest.mark.parametrize("folder", [*(f"overlays/{name}" for name in OVERLAYS), "jobs/ingest"])
def test_tls_is_mounted_where_used_and_replaces_probes_without_tls(folder: str, tmp_path: Path) -> None:
    place = copied(tmp_path) / "kubernetes" / folder
    file = place / "kustomization.yaml"
    document = yaml.safe_load(file.read_text())
    document["components"].append("../../components/tls")
    file.write_text(yaml.safe_dump(document))
    for at, template in pods(kustomize(place)):
        (container,) = template["spec"]["containers"]
        probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")]
        assert not any("grpc" in probe for probe in probes), at
        commands = [probe["exec"]["command"] for probe in probes if "exec" in probe]
        assert all(command[:2] == ["lookalike", "health"] for command in commands)
        settings = [one["value"] for one in container.get("env", []) if "value" in one]
        used = [*(word for command in commands for word in command), *settings]
        if any("lookalike-tls" in word for word in used):
            (mount,) = (one for one in container["volumeMounts"] if one["mountPath"].endswith("/lookalike-tls"))
            volume = {"name": mount["name"], "secret": {"secretName": "lookalike-tls", "defaultMode": 0o440}}
            assert volume in template["spec"]["volumes"], at
        else:
            # Ray's head and its models do not serve our gRPC services.
            assert "RayService" in at
            assert "7720" not in str(container.get("ports"))
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
