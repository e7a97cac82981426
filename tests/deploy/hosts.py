"""Owns miniature machines: each container gets its own network namespace, and its own mount namespace with its
folders at the manifest's paths and everything else read-only.

Needs to be root in its own network and mount namespaces; everything disappears with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.containers import Container, Probe
from tests.deploy.network import UNSHARE, Network, run
from tests.deploy.render import ROOT

_CLOSED = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
_USER = (*_CLOSED, "--reuid=10001", "--regid=10001", "--clear-groups")
# The files of this machine that a program may read.
_ETC = ("passwd", "group", "nsswitch.conf", "host.conf", "ld.so.cache", "localtime", "alternatives")
_PYTHON = Path(sys.executable).parent


def is_permitted() -> bool:
    script = "ip link add probe0 type veth peer name probe1 && mount -t tmpfs none /run"
    try:
        return subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class Hosts:
    """The containers that run, by name."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        hosts_file = work / "hosts"
        # If only root may read this checkout, the process is root, but without capabilities.
        self._user = _USER if _may_be_read_by_others() else _CLOSED
        etc = work / "etc"
        (etc / "lookalike").mkdir(parents=True)
        (etc / "hosts").touch()
        for name in _ETC:
            if (source := Path("/etc", name)).is_dir():
                shutil.copytree(source, etc / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, etc / name)
        for folder in ("/run", "/var/lib"):
            run("mount", "-t", "tmpfs", "none", folder)
        for folder in ("/run/netns", "/run/secrets/lookalike", "/var/lib/lookalike"):
            Path(folder).mkdir(parents=True)
        self._network = Network(hosts_file)
        run("mount", "--bind", etc, "/etc")
        run("mount", "--bind", hosts_file, "/etc/hosts")

    def start(self, container: Container) -> None:
        """Starts a container at a new address, which its names resolve to."""
        space = self._network.join(container.name, container.names)
        with (self._work / f"{container.name}.log").open("ab") as log:
            self._processes[container.name] = subprocess.Popen(
                [
                    "nsenter",
                    f"--net={space}",
                    "unshare",
                    "--mount",
                    "sh",
                    "-ec",
                    self._script(container),
                ],
                env={**container.environment, "PATH": f"{_PYTHON}:/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=log,
                stderr=log,
            )

    def stop(self, *names: str) -> None:
        """Sends SIGTERM, as a container runtime does, and waits. The process must exit without an error."""
        for name in names:
            self._processes[name].terminate()
        for name in names:
            code = self._processes.pop(name).wait(30)
            assert code == 0, f"{name} ended with {code}: {self.log(name)}"

    def address(self, name: str) -> str:
        return self._network.address(name)

    def names(self) -> list[str]:
        return list(self._processes)

    def log(self, name: str) -> str:
        return (self._work / f"{name}.log").read_text()[-2000:]

    def passes(self, name: str, probe: Probe) -> bool:
        """Whether a probe succeeds, run as the kubelet or the container runtime runs it."""
        assert self._processes[name].poll() is None, f"{name} has ended: {self.log(name)}"
        if probe.command:
            target = str(self._processes[name].pid)
            command = ["nsenter", "--net", "--mount", "--wd=/", "--target", target, *self._user, *probe.command]
            environment = {"PATH": f"{_PYTHON}:/usr/bin:/bin", "HOME": "/tmp"}
            return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
        request = health_pb2.HealthCheckRequest(service=probe.service)
        with grpc.insecure_channel(f"{self.address(name)}:{probe.port}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=3)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_healthy(self, containers: Iterable[Container], seconds: float = 90) -> None:
        """Waits until every probe of all containers succeeds."""
        deadline = time.monotonic() + seconds
        for container in containers:
            for probe in container.probes:
                while not self.passes(container.name, probe):
                    assert time.monotonic() < deadline, f"{container.name}: {probe}: {self.log(container.name)}"
                    time.sleep(1.0 if probe.command else 0.2)

    def _script(self, container: Container) -> str:
        lines = []
        for inside, outside in sorted(container.mounts.items(), key=lambda mount: mount[0] == "/tmp"):
            folder = outside or self._work / "empty" / container.name / inside.strip("/")
            if outside is None or inside.startswith("/var/"):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o777)
            if ROOT.is_relative_to(inside):
                own = folder / ROOT.relative_to(inside)
                lines.append(f"mkdir -p {own}; mount --bind {ROOT} {own}")
            lines.append(f"mount --rbind {folder} {inside}")
        lines.append("mount -o remount,bind,ro /")
        lines.append("cd /var/lib/lookalike")
        return "\n".join([*lines, " ".join(["exec", *self._user, *container.command])])


def _may_be_read_by_others() -> bool:
    command = [*_USER, "python", "-c", "import lookalike.local.supervisor"]
    environment = {"PATH": f"{_PYTHON}:/usr/bin:/bin"}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, check=False).returncode == 0


def write_whole(path: Path, content: str) -> None:
    """Replaces a mounted ConfigMap atomically, as the kubelet does."""
    unfinished = path.with_name(f"..{path.name}")
    unfinished.write_text(content)
    unfinished.rename(path)
