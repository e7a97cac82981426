"""Owns the translation of a compose service and its image to the config of an OCI runtime, as Docker does it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.deploy.render import Document

_TRANSLATED = set("image command environment volumes tmpfs shm_size read_only cap_drop security_opt".split())
# `network` and `runtime` follow some of these; build, ports and restart are Docker's own.
_FOLLOWED = set("networks depends_on healthcheck stop_grace_period build ports restart".split())
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
# Docker's limits on open files.
_OPEN_FILES = (1024, 524288)
_MASKED = (
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_CLOSED = ("nosuid", "noexec", "nodev")


@dataclasses.dataclass(frozen=True)
class Image:
    """root: the folder where it is mounted. config: its OCI config (User, Env, WorkingDir)."""

    root: Path
    config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, name: str) -> Image:
        """The image from what `buildah mount` and `buildah inspect` printed into NAME.root and NAME.json."""
        root = Path((folder / f"{name}.root").read_text().strip())
        return cls(root, json.loads((folder / f"{name}.json").read_text())["OCIv1"]["config"])


@dataclasses.dataclass(frozen=True)
class Host:
    """What the machine gives to every container. volumes: the folder of the named volumes. etc: the folder of the
    files that Docker generates in /etc. open_files: the largest limit that is permitted. seccomp: the rules for
    system calls, in the runtime's form."""

    volumes: Path
    etc: Path
    open_files: int
    seccomp: Document


def runtime_config(name: str, service: Document, image: Image, host: Host, network: Path) -> Document:
    """The content of config.json.

    Args:
        name: The service's name, which is also its host name.
        service: From `render.compose`.
        image: The service's image.
        host: The machine.
        network: The file of the container's network namespace.

    Raises:
        ValueError: If the service has a field or a value that is not translated.
    """
    if unknown := service.keys() - _TRANSLATED - _FOLLOWED:
        raise ValueError(f"{name}: {sorted(unknown)}: not translated; add it to {Path(__file__).name}")
    if service["cap_drop"] != ["ALL"]:
        raise ValueError(f"{name}.cap_drop: {service['cap_drop']}: only [ALL] is translated")
    user, group = map(int, image.config["User"].split(":"))
    environment = {"HOSTNAME": name, **service.get("environment", {})}
    soft, hard = (min(limit, host.open_files) for limit in _OPEN_FILES)
    return {
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": {"path": str(image.root), "readonly": service["read_only"]},
        "process": {
            "args": service["command"],
            "cwd": image.config["WorkingDir"],
            "env": [*image.config["Env"], *(f"{key}={value}" for key, value in environment.items())],
            "user": {"uid": user, "gid": group},
            "capabilities": {},
            "noNewPrivileges": "no-new-privileges:true" in service["security_opt"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
        },
        "mounts": [*_system_mounts(_bytes(service.get("shm_size", "64mb"))), *_own_mounts(service, host)],
        "linux": {
            "namespaces": [*({"type": kind} for kind in _NAMESPACES), {"type": "network", "path": str(network)}],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "seccomp": host.seccomp,
        },
    }


def _bytes(size: object) -> int:
    """A size in Compose's form: 64mb, 1gb."""
    match = re.fullmatch(r"(\d+)(kb|mb|gb)", str(size))
    if not match:
        raise ValueError(f"shm_size: {size!r}: only sizes such as 64mb are translated")
    return int(match[1]) * 1024 ** (["kb", "mb", "gb"].index(match[2]) + 1)


def _system_mounts(memory_bytes: int) -> list[Document]:
    devices = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        _file_system("/proc", "proc", *_CLOSED),
        _file_system("/dev", "tmpfs", "nosuid", "mode=755", "size=65536k"),
        _file_system("/dev/pts", "devpts", "nosuid", "noexec", *devices),
        _file_system("/dev/shm", "tmpfs", *_CLOSED, "mode=1777", f"size={memory_bytes}"),
        _file_system("/sys", "sysfs", *_CLOSED, "ro"),
        _file_system("/sys/fs/cgroup", "cgroup", *_CLOSED, "ro"),
    ]


def _own_mounts(service: Document, host: Host) -> list[Document]:
    mounts = [_bind(host.etc / file, f"/etc/{file}", read_only=True) for file in ("hosts", "resolv.conf")]
    for one in service["volumes"]:
        source = Path(one["source"]) if one["type"] == "bind" else host.volumes / one["source"]
        mounts.append(_bind(source, one["target"], read_only=one.get("read_only", False)))
    # Docker's options for a tmpfs: no program can be executed from it.
    return [*mounts, *(_file_system(target, "tmpfs", *_CLOSED, "mode=1777") for target in service["tmpfs"])]


def _file_system(target: str, kind: str, *options: str) -> Document:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _bind(source: Path, target: str, read_only: bool) -> Document:
    options = ["rbind", "rprivate", *(["ro"] if read_only else [])]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def seccomp_rules(profile: Document, machine: str) -> Document:
    """A profile of Docker or Podman in the runtime's form, for a process without capabilities.

    Args:
        profile: The profile, whose rules are for all architectures and sets of capabilities.
        machine: This machine's architecture, from `platform.machine()`.
    """
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    fields = ("names", "action", "args", "errnoRet")
    rules = []
    for rule in profile["syscalls"]:
        only = rule.get("includes") or {}
        if not only.get("caps") and arch in only.get("arches", [arch]):
            rules.append({field: rule[field] for field in fields if rule.get(field) is not None})
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [f"SCMP_ARCH_{machine.upper()}"],
        "syscalls": rules,
    }
