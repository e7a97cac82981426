"""Scaling changes one number in one file, and nothing else in the files or in the applied objects."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lookalike.local.manifests import Origin, render
from lookalike.model.errors import CannotStart
from tests.deploy.render import DEPLOY, OVERLAYS, ROOT, Document, compose, copied, kustomize, manifests


def change(folder: Path, before: str, after: str) -> str:
    """Edits the one file as an operator does; returns what the command prints on standard error."""
    path = folder / "lookalike.yaml"
    text = path.read_text()
    assert text.count(f"\n{before}\n") == 1
    path.write_text(text.replace(f"\n{before}\n", f"\n{after}\n"))
    return manifests(folder)


def by_name(documents: list[Document]) -> dict[str, str]:
    return {f"{one['kind']}/{one['metadata']['name']}": yaml.safe_dump(one) for one in documents}


def lines_changed(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return copied(tmp_path) / "kubernetes" / "overlays" / "production"


def test_adding_a_partition_changes_one_number_in_kubernetes(overlay: Path) -> None:
    before = by_name(kustomize(overlay))
    assert change(overlay, "partitions: 4", "partitions: 5") == ""
    after = by_name(kustomize(overlay))
    assert after.keys() - before.keys() == {"PodDisruptionBudget/shard-partition-4"}
    assert not before.keys() - after.keys()
    changed = {name: lines_changed(before[name], after[name]) for name in before if before[name] != after[name]}
    assert changed == {
        "ConfigMap/lookalike": changed["ConfigMap/lookalike"],
        "StatefulSet/shard-r0": ["-  replicas: 4", "+  replicas: 5"],
        "StatefulSet/shard-r1": ["-  replicas: 4", "+  replicas: 5"],
    }
    config_before, config_after = (
        yaml.safe_load(documents["ConfigMap/lookalike"])["data"]["lookalike.yaml"] for documents in (before, after)
    )
    assert lines_changed(config_before, config_after) == ["-partitions: 4", "+partitions: 5"]


def test_adding_a_replica_changes_one_number_in_kubernetes(overlay: Path) -> None:
    before = by_name(kustomize(overlay))
    change(overlay, "replicas: 2", "replicas: 3")
    after = by_name(kustomize(overlay))
    assert after.keys() - before.keys() == {"StatefulSet/shard-r2"}
    changed = {name: lines_changed(before[name], after[name]) for name in before if before[name] != after[name]}
    config = changed.pop("ConfigMap/lookalike")
    assert len(config) == 2
    lines = ["-  minAvailable: 1", "+  minAvailable: 2"]
    assert changed == {f"PodDisruptionBudget/shard-partition-{number}": lines for number in range(4)}


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        ("partitions: 4", "partitions: 5", {"shard-r0-4", "shard-r1-4"}),
        ("replicas: 2", "replicas: 3", {f"shard-r2-{partition}" for partition in range(4)}),
    ],
)
def test_scaling_is_one_number_in_compose(tmp_path: Path, before: str, after: str, added: set[str]) -> None:
    folder = copied(tmp_path) / "compose"
    first = compose(folder)
    change(folder / "cluster", before, after)
    second = compose(folder)
    assert second["services"].keys() - first["services"].keys() == added
    assert {**second, "services": {name: second["services"][name] for name in first["services"]}} == first


def test_a_removed_partition_is_kept_until_it_is_empty(overlay: Path) -> None:
    """test_real_processes.py tests how it is removed in the end."""
    said = change(overlay, "partitions: 4", "partitions: 3")
    assert "partitions 3..3 stay until they have handed over" in said
    sets = [one for one in kustomize(overlay) if one["kind"] == "StatefulSet"]
    assert [one["spec"]["replicas"] for one in sets] == [4, 4]


def test_removing_several_replicas_prints_a_warning(overlay: Path) -> None:
    assert change(overlay, "replicas: 2", "replicas: 3") == ""
    assert "replicas go from 3 to 1 at once" in change(overlay, "replicas: 3", "replicas: 1")
    assert change(overlay, "replicas: 1", "replicas: 2") == ""
    assert change(overlay, "replicas: 2", "replicas: 1") == ""


@pytest.mark.parametrize(
    "folder", [DEPLOY / "compose/cluster", *(DEPLOY / "kubernetes/overlays" / x for x in OVERLAYS)]
)
def test_committed_manifests_are_up_to_date(folder: Path) -> None:
    manifests(folder, "--check")


def test_check_fails_when_the_config_has_changed(overlay: Path) -> None:
    config = overlay / "lookalike.yaml"
    config.write_text(config.read_text().replace("replicas: 2", "replicas: 3", 1))
    with pytest.raises(AssertionError, match=r"shards.yaml is not what lookalike.yaml asks for; run `lookalike"):
        manifests(overlay, "--check")


def test_a_part_is_repeated_for_each_value_of_its_placeholders() -> None:
    template = (
        "one of {replicas-1}\n# ---\nr{replica}\n---\np{partition} of {partitions}\n---\nr{replica}p{partition}\n"
    )
    assert render(template, partitions=2, replicas=2) == (
        "one of 1\nr0\nr1\n---\np0 of 2\n---\np1 of 2\n---\nr0p0\n---\nr0p1\n---\nr1p0\n---\nr1p1\n"
    )


def test_a_file_that_was_not_written_by_the_command_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "shards.yaml"
    for content in (b"kind: StatefulSet\n", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(CannotStart, match="does not begin with"):
            Origin.read(file)


def test_a_failed_write_leaves_the_file_unchanged(overlay: Path) -> None:
    before = (overlay / "shards.yaml").read_text()
    command = f"ulimit -f 0; exec {sys.executable} -m lookalike manifests {overlay}"
    result = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == f"error: manifests: {overlay}/shards.yaml cannot be written: File too large\n"
    assert (overlay / "shards.yaml").read_text() == before


def test_the_alert_rules_for_kubernetes_are_those_of_prometheus() -> None:
    rules = yaml.safe_load((DEPLOY / "kubernetes/components/monitoring/rules.yaml").read_text())
    assert rules["spec"] == yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text()), "run `make manifests`"


def test_versions_are_those_of_the_project() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    for overlay in ("production", "gpu"):
        (service,) = (
            one for one in kustomize(DEPLOY / "kubernetes/overlays" / overlay) if one["kind"] == "RayService"
        )
        assert service["spec"]["rayClusterConfig"]["rayVersion"] == constraints["ray"]
