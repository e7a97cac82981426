"""The backup jobs of deploy/: Kubernetes' CronJob and systemd's timer run a command that backs up."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from lookalike import Record
from lookalike.jobs.backup.folder import Folder
from tests.command import lookalike
from tests.conftest import Cluster
from tests.deploy.render import DEPLOY, copied, kustomize, of_kind

UNITS = DEPLOY / "systemd"
NAME = "scheduled"


@pytest.fixture(scope="module", autouse=True)
def records(cluster: Cluster) -> None:
    with cluster.client() as client:
        client.create_collection(NAME, bits=64)
        client.upsert([Record("a", code=bytes(8))], collection=NAME)


def test_the_cron_job_backs_up(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = copied(tmp_path) / "kubernetes" / "overlays" / "small"
    file = overlay / "kustomization.yaml"
    document = yaml.safe_load(file.read_text())
    document["components"] += ["../../components/backup", "../../components/tls"]
    document["configMapGenerator"].append(
        {"name": "backup", "literals": [f"url={tmp_path}/backups", f"collection={NAME}"]}
    )
    file.write_text(yaml.safe_dump(document))
    documents = kustomize(overlay)
    job = of_kind(documents, "CronJob")["backup"]
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "lookalike:0.1.0"
    values = of_kind(documents, "ConfigMap")["backup"]["data"]
    environment = {one["name"]: one for one in container["env"]}
    arguments = [
        re.sub(r"\$\((\w+)\)", lambda m: values[environment[m[1]]["valueFrom"]["configMapKeyRef"]["key"]], one)
        for one in container["args"]
    ]
    # TLS has tests of its own; this cluster is without.
    assert environment["LOOKALIKE_CA"]["value"] == "/run/secrets/lookalike-tls/ca.crt"
    arguments = [one.replace("coordinator:7700", cluster.address) for one in arguments]
    for _ in range(2):
        code, _, complaint = lookalike(*container["command"][1:], *arguments)
        assert code == 0, complaint
    assert Folder(f"{tmp_path}/backups", NAME).finished() == [1, 2]


def unit_command(tmp_path: Path) -> str:
    """ExecStart as systemd would run it for the collection, with a backup folder of this test."""
    unit = (UNITS / "lookalike-backup@.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    return (
        line.replace("%i", NAME)
        .replace("${BACKUPS}", shlex.quote(str(tmp_path)))
        .replace("/opt/lookalike/bin/lookalike", f"{sys.executable} -m lookalike")
    )


def test_the_timer_runs_the_backup(cluster: Cluster, tmp_path: Path) -> None:
    command = unit_command(tmp_path)
    environment = {**os.environ, "LOOKALIKE_SERVER": cluster.address}
    done = subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "verified; removed: none" in done.stdout
    assert (UNITS / "lookalike-backup@.timer").exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_timer_and_its_service(tmp_path: Path) -> None:
    names = ("lookalike-backup@codes.service", "lookalike-backup@codes.timer")
    for name in names:
        text = (UNITS / name.replace("@codes", "@")).read_text()
        (tmp_path / name).write_text(text.replace("/opt/lookalike/bin", str(Path(sys.executable).parent)))
    command = ["systemd-analyze", "verify", *(tmp_path / name for name in names)]
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
