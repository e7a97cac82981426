"""What deploy/images.sh runs is what the compose file asks for. It builds the images itself, in CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.images import pip_options
from tests.deploy.images.__main__ import LEFT_OUT, wanted_services
from tests.deploy.images.bundle import Host, Image, runtime_config, seccomp_rules
from tests.deploy.render import DEPLOY, ROOT, Document, compose

COMPOSE = DEPLOY / "compose"
IMAGE = Image(Path("/image"), {"User": "10001:10001", "Env": ["HOME=/tmp"], "WorkingDir": "/var/lib/lookalike"})
HOST = Host(Path("/volumes"), Path("/generated"), open_files=4096, seccomp={"defaultAction": "SCMP_ACT_ERRNO"})


def config_of(name: str, **changed: object) -> Document:
    service = {**wanted_services(COMPOSE)[name], **changed}
    return runtime_config(name, service, IMAGE, HOST, Path("/run/netns/n1"))


def mounts_of(config: Document) -> dict[str, tuple[str, bool]]:
    """The source of each mount, and whether it is read-only."""
    return {one["destination"]: (one["source"], "ro" in one["options"]) for one in config["mounts"]}


def test_a_shard_runs_as_the_compose_file_says() -> None:
    config = config_of("shard-r0-1")
    flags = ["--config", "/etc/lookalike/lookalike.yaml", "--replica", "0", "--partition", "1"]
    assert config["process"] == {
        "args": ["python", "-m", "shard", *flags],
        "cwd": "/var/lib/lookalike",
        "env": ["HOME=/tmp", "HOSTNAME=shard-r0-1"],
        "user": {"uid": 10001, "gid": 10001},
        "capabilities": {},
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
    }
    assert config["root"] == {"path": "/image", "readonly": True}
    system = ("/dev", "/proc", "/sys")
    assert {one: mount for one, mount in mounts_of(config).items() if not one.startswith(system)} == {
        "/etc/hosts": ("/generated/hosts", True),
        "/etc/resolv.conf": ("/generated/resolv.conf", True),
        "/etc/lookalike": (str(COMPOSE / "cluster"), True),
        "/run/secrets/lookalike": (str(COMPOSE / "secrets"), True),
        "/var/lib/lookalike": ("/volumes/shards", False),
        "/tmp": ("tmpfs", False),
    }  # fmt: skip
    assert {"type": "network", "path": "/run/netns/n1"} in config["linux"]["namespaces"]
    assert config["linux"]["seccomp"] == HOST.seccomp


def test_the_encoder_has_the_shared_memory_of_the_compose_file() -> None:
    for name, size in (("encoder", 1 << 30), ("coordinator-0", 64 << 20)):
        (memory,) = (one for one in config_of(name)["mounts"] if one["destination"] == "/dev/shm")
        assert f"size={size}" in memory["options"]


def test_all_services_run_but_those_whose_images_are_not_built() -> None:
    wanted = wanted_services(COMPOSE)
    assert compose(COMPOSE)["services"].keys() - wanted.keys() == set(LEFT_OUT)
    for name in wanted:
        assert config_of(name)["hostname"] == name
    script = (DEPLOY / "images.sh").read_text()
    built = dict(re.findall(r"\b(services|encoder)=(\S+)", script))
    assert {one["image"] for one in wanted.values()} == set(built.values())
    builds = {one["build"]["target"]: one["image"] for one in wanted.values() if "build" in one}
    assert builds == built


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"privileged": True}, r"encoder: \['privileged'\]: not translated"),
        ({"cap_drop": ["NET_RAW"]}, r"encoder.cap_drop: \['NET_RAW'\]: only \[ALL\] is translated"),
        ({"shm_size": 64}, r"shm_size: 64: only sizes such as 64mb"),
    ],
)
def test_what_is_not_translated_is_an_error(changed: Document, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of("encoder", **changed)


def test_a_profile_of_system_calls_is_reduced_to_this_machine() -> None:
    allowed = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            {**allowed, "args": [], "includes": {}, "excludes": {}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["s390_sthyi"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}, "errnoRet": 1},
        ],
    }
    assert seccomp_rules(profile, "x86_64") == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {**allowed, "args": []},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        ],
    }


def test_pip_in_a_build_has_the_settings_of_this_machine(tmp_path: Path) -> None:
    index = tmp_path / "index/simple"
    index.mkdir(parents=True)
    settings = {"timeout": "180", "extra-index-url": f"\n{index.as_uri()}\nhttps://example.org", "cert": __file__}
    first, second = tmp_path / "first.conf", tmp_path / "second.conf"
    first.write_text(pip_options.content(settings))
    second.write_text(pip_options.content(pip_options.settings_of(listed(first))))
    assert settings.items() <= pip_options.settings_of(listed(second)).items()
    assert set(pip_options.named_paths(settings)) == {index.parent, Path(__file__)}


def listed(config: Path) -> str:
    """What pip prints of a config file alone."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env={**environment, "PIP_CONFIG_FILE": str(config)},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("script", ["deploy/images.sh", ".ci/images", ".ci/run"])
def test_the_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)
