"""The encoder as KubeRay starts it: the RayService's Serve config on a Ray cluster that requires a token."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoder.ray_reaper import reaper
from lookalike.local.ephemeral import ephemeral_config
from lookalike.server.config import EncoderConfig, dump_config
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1 import encoder_pb2
from lookalike.v1.encoder_pb2_grpc import EncoderServiceStub
from tests.conftest import wait_until
from tests.deploy.render import DEPLOY, Document, image_environment, kustomize, of_kind

NAME = "lookalike-encoder"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture(scope="module")
def service() -> Document:
    spec: Document = of_kind(kustomize(DEPLOY / "kubernetes/overlays/production"), "RayService")["encoder"]["spec"]
    return spec


# Ray uses deprecated features of pydantic.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_serve_knows_the_config(service: Document) -> None:
    from ray.serve.schema import ServeDeploySchema

    from encoder.deployment import APPLICATION

    config = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"]))
    (application,) = config.applications
    assert application.name == APPLICATION == NAME
    (front,) = (
        group for group in service["rayClusterConfig"]["workerGroupSpecs"] if group["groupName"] == "front"
    )
    assert application.args["fronts"] == front["replicas"] == front["minReplicas"] == front["maxReplicas"]


def test_kuberay_starts_an_encoder_that_serves(service: Document, tmp_path: Path, photographs: Path) -> None:
    encoder = EncoderConfig(bits=256)
    config = ephemeral_config(tmp_path, 1, encoder)
    (tmp_path / "lookalike.yaml").write_text(dump_config(config))
    document = yaml.safe_load(service["serveConfigV2"])
    # This machine has one node, so one front, and the config is in another folder.
    document["applications"][0]["args"] = {"config": str(tmp_path / "lookalike.yaml"), "fronts": 1}
    token = secrets.token_hex(32)
    environment = {
        **os.environ,
        **{key: value for key, value in image_environment("encoder").items() if key != "PATH"},
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": service["rayClusterConfig"]["authOptions"]["mode"],
        "RAY_AUTH_TOKEN": token,
    }
    assert config.encoder is not None
    with ray_head(start_parameters(service), environment) as dashboard:
        wait_until(lambda: answers(f"{dashboard}/api/gcs_healthz"), 60)
        # The URL of the workers' probes, on Ray's default port.
        wait_until(lambda: answers("http://127.0.0.1:52365/api/local_raylet_healthz"), 60)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            call(f"{dashboard}/api/serve/applications/", document, "a wrong token")
        call(f"{dashboard}/api/serve/applications/", document, token)
        with grpc.insecure_channel(config.encoder.address, CHANNEL_OPTIONS) as channel:
            health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=120
            )
            images = [file.read_bytes() for file in sorted(photographs.rglob("*.jpg"))[:3]]
            answer = EncoderServiceStub(channel).Encode(encoder_pb2.EncodeRequest(images=images), timeout=60)
        assert [len(image.code) for image in answer.images] == [32] * 3
        wait_until(lambda: state(call(f"{dashboard}/api/serve/applications/", None, token)) == "RUNNING", 30)


def start_parameters(service: Document) -> list[str]:
    """The options of `ray start` for a node that is head, front and model. The first two have no processors."""
    cluster = service["rayClusterConfig"]
    head = dict(cluster["headGroupSpec"]["rayStartParams"])
    front = dict(cluster["workerGroupSpecs"][0]["rayStartParams"])
    assert head.pop("num-cpus") == front.pop("num-cpus") == "0"
    # KubeRay passes the text to a shell, which removes the outer quotes.
    (resources,) = shlex.split(front.pop("resources"))
    assert not front
    return ["--num-cpus=1", f"--resources={resources}", *(f"--{key}={value}" for key, value in head.items())]


@contextlib.contextmanager
def ray_head(parameters: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A Ray cluster of one node; yields its dashboard's URL. Its sockets' paths must be short."""
    ports = {name: free_port() for name in ("port", "dashboard-port")}
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as work:
        options = [f"--{name}={port}" for name, port in ports.items()]
        command = [*RAY, "start", "--head", "--block", f"--temp-dir={work}", *options, *parameters]
        with Path(work, "start.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        with reaper(process.pid):
            try:
                yield f"http://127.0.0.1:{ports['dashboard-port']}"
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def call(url: str, document: Document | None, token: str) -> Document:
    """Calls the dashboard as KubeRay does: PUTs a document, or GETs one."""
    request = urllib.request.Request(
        url,
        data=None if document is None else json.dumps(document).encode(),
        method="GET" if document is None else "PUT",
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read()
    return json.loads(content) if content else {}  # type: ignore[no-any-return]


def state(answer: Document) -> str:
    return str(answer["applications"][NAME]["status"])
