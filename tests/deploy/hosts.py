"""Owns miniature machines: each container gets its own network namespace, connected to the others by a bridge, and
its own mount namespace with its folders at the manifest's paths and everything else read-only.

Needs to be root in its own network and mount namespaces; everything disappears with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.containers import Container, Probe
from tests.deploy.render import ROOT

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
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
        self._addresses: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._hosts_file = work / "hosts"
        self._hosts_file.write_text("127.0.0.1 localhost\n")
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
        _run("mount", "--bind", etc, "/etc")
        _run("mount", "--bind", self._hosts_file, "/etc/hosts")
        for folder in ("/run", "/var/lib"):
            _run("mount", "-t", "tmpfs", "none", folder)
        for folder in ("/run/netns", "/run/secrets/lookalike", "/var/lib/lookalike"):
            Path(folder).mkdir(parents=True)
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "bridge0", "type", "bridge")
        _run("ip", "address", "add", "10.77.0.1/16", "dev", "bridge0")
        _run("ip", "link", "set", "bridge0", "up")

    def start(self, container: Container) -> None:
        """Starts a container at a new address, which its names resolve to."""
        number = len(self._addresses) + 1
        address = self._addresses[container.name] = f"10.77.1.{number}"
        with self._hosts_file.open("a") as file:
            print(address, container.name, *container.names, file=file)
        space = f"n{number}"
        _run("ip", "netns", "add", space)
        _run(
            "ip", "link", "add", f"v{number}", "master", "bridge0", "type", "veth", "peer", "eth0", "netns", space
        )
        _run("ip", "link", "set", f"v{number}", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "address", "add", f"{address}/16", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        with (self._work / f"{container.name}.log").open("ab") as log:
            self._processes[container.name] = subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{space}",
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
        return self._addresses[name]

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


def _run(*command: str | os.PathLike[str]) -> None:
    subprocess.run(command, check=True)


def write_whole(path: Path, content: str) -> None:
    """Replaces a mounted ConfigMap atomically, as the kubelet does."""
    unfinished = path.with_name(f"..{path.name}")
    unfinished.write_text(content)
    unfinished.rename(path)
