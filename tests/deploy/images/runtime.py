"""Owns the containers of compose services under crun: starts them in the order of depends_on, checks their health
as Docker does, and stops them.

Needs the namespaces of `network`, and mounted images."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.deploy.images.bundle import Host, Image, runtime_config, seccomp_rules
from tests.deploy.network import Network, run
from tests.deploy.render import Document

# Podman's, from a package that buildah depends on. Docker's is nearly the same.
# How many times as long as on machines of their own the services may take.
_SLOWER = 3
_SECCOMP = Path("/usr/share/containers/seccomp.json")


class Containers:
    """The running containers, by the names of their services. images: those mounted, by the names in `image`."""

    def __init__(self, work: Path, images: Mapping[str, Image]) -> None:
        self._work = work
        self._images = images
        self._services: dict[str, Document] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        etc = work / "etc"
        etc.mkdir()
        # Empty: no name server.
        (etc / "resolv.conf").touch()
        _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        rules = seccomp_rules(json.loads(_SECCOMP.read_text()), platform.machine())
        self._host = Host(work / "volumes", etc, open_files, rules)
        run("mount", "-t", "tmpfs", "none", "/run")
        Path("/run/netns").mkdir()
        # crun 1.8 refuses cgroups of both versions side by side.
        run("umount", "--recursive", "/sys/fs/cgroup")
        run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
        self._network = Network(etc / "hosts")

    def up(self, services: Mapping[str, Document]) -> list[str]:
        """Starts those services that do not run, as `docker compose up --wait` does; returns their names."""
        waiting = [name for name in services if name not in self._processes]
        started = []
        while waiting:
            ready = [name for name in waiting if not _needs(services[name]).keys() & set(waiting)]
            assert ready, f"depends_on: {waiting} wait for each other"
            for name in ready:
                for other, condition in _needs(services[name]).items():
                    if condition["condition"] == "service_healthy":
                        self.wait_healthy(other)
                self._start(name, services[name])
            waiting = [name for name in waiting if name not in ready]
            started += ready
        for name in started:
            self.wait_healthy(name)
        return started

    def stop(self, *names: str) -> None:
        """Sends SIGTERM, and waits for the service's stop_grace_period. It must exit without an error."""
        for name in names:
            run("crun", "kill", name, "TERM")
        for name in names:
            grace = _seconds(self._services[name].get("stop_grace_period", "10s"))
            try:
                code = self._processes[name].wait(grace)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{name} runs {grace} s after SIGTERM: {self.log(name)}") from None
            del self._processes[name]
            assert code == 0, f"{name} ended with {code}: {self.log(name)}"

    def kill(self) -> None:
        """Ends what still runs, at once."""
        for name, process in self._processes.items():
            # It may end by itself first.
            subprocess.run(["crun", "kill", name, "KILL"], check=False, capture_output=True)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the error that led here says more
                process.wait(10)
        self._processes.clear()

    def execute(self, name: str, *command: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a command in a container, as `docker compose exec` does. Raises TimeoutExpired if it is slower."""
        user = self._image(name).config["User"]
        words = ["crun", "exec", "--user", user, name, *command]
        return subprocess.run(words, input="", check=False, capture_output=True, text=True, timeout=seconds)

    def wait_healthy(self, name: str) -> None:
        """Waits until the service's health check succeeds. After start_period and all retries, Docker reports the
        container as unhealthy; this waits _SLOWER times as long, because all services start on one machine."""
        check = self._services[name]["healthcheck"]
        kind, *command = check["test"]
        assert kind == "CMD", (name, kind)
        allowed = _SLOWER * (_seconds(check["start_period"]) + check["retries"] * _seconds(check["interval"]))
        while said := self._failure(name, command, _SLOWER * _seconds(check["timeout"])):
            assert self._processes[name].poll() is None, f"{name} has ended: {self.log(name)}"
            passed = time.monotonic() - self._started[name]
            assert passed < allowed, f"{name} is not healthy after {allowed} s: {said}{self.log(name)}"
            time.sleep(1.0)

    def _failure(self, name: str, command: Sequence[str], seconds: float) -> str:
        """What a command in a container says if it fails or takes longer; "" if it succeeds."""
        try:
            done = self.execute(name, *command, seconds=seconds)
        except subprocess.TimeoutExpired as error:
            return str(error)
        return (done.stderr or f"exit code {done.returncode}") if done.returncode else ""

    def names(self) -> list[str]:
        return list(self._processes)

    def address(self, name: str) -> str:
        return self._network.address(name)

    def log(self, name: str) -> str:
        return (self._work / f"{name}.log").read_text()[-3000:]

    def _image(self, name: str) -> Image:
        return self._images[self._services[name]["image"]]

    def _start(self, name: str, service: Document) -> None:
        self._services[name] = service
        image, bundle = self._image(name), self._work / "bundles" / name
        _fill_volumes(service, image, self._host.volumes)
        # Without the network's aliases: gRPC merges the addresses of two names that have an alias in common.
        space = self._network.join(name)
        bundle.mkdir(parents=True, exist_ok=True)
        config = runtime_config(name, service, image, self._host, space)
        (bundle / "config.json").write_text(json.dumps(config, indent=1))
        with (self._work / f"{name}.log").open("ab") as log:
            # A pipe, since crun gives standard input to the container's user, even /dev/null.
            self._processes[name] = subprocess.Popen(
                ["crun", "run", "--bundle", str(bundle), name],
                stdin=subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip
        self._started[name] = time.monotonic()


def _needs(service: Document) -> Document:
    needs: Document = service.get("depends_on", {})
    return needs


def _fill_volumes(service: Document, image: Image, volumes: Path) -> None:
    """Creates the named volumes that do not exist, with the content, owner and mode of the image's own folder."""
    for mount in service["volumes"]:
        target = volumes / mount["source"]
        if mount["type"] == "bind" or target.exists():
            continue
        inside = image.root / mount["target"].lstrip("/")
        shutil.copytree(inside, target, symlinks=True)
        owner = inside.stat()
        os.chown(target, owner.st_uid, owner.st_gid)


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, duration
    return float(match[1])
