"""The systemd units and the Ray cluster file are valid."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.render import DEPLOY

UNITS = DEPLOY / "systemd"
INSTALLED = "/opt/lookalike/bin"
NAMES = (
    "lookalike-coordinator.service",
    "lookalike-encoder.service",
    "lookalike-shard@0-2.service",
    "lookalike.target",
)
# On systemd's scale from 0 (a process that can do nothing) to 10.
MAX_EXPOSURE = 2.5


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with the path of this installation's program."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace(INSTALLED, str(Path(sys.executable).parent))
        (tmp_path / unit.name.replace("@.", "@0-2.")).write_text(text)
    return tmp_path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_units(units: Path) -> None:
    result = subprocess.run(
        ["systemd-analyze", "verify", *(units / name for name in NAMES)],
        check=False, capture_output=True, text=True, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    for name in NAMES[:3]:
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", units / name]
        said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert found, said
        assert float(found[1]) <= MAX_EXPOSURE, name


def test_a_unit_restarts_without_limit() -> None:
    """By default systemd gives up after five starts in ten seconds, and leaves it failed."""
    for unit in UNITS.glob("*.service"):
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        settings.read_string(unit.read_text())
        if settings["Service"].get("Type") == "oneshot":  # a job that its timer starts again
            continue
        assert settings["Unit"]["StartLimitIntervalSec"] == "0", unit
        assert settings["Service"]["Restart"] == "always", unit


@pytest.mark.parametrize("name", NAMES[:3])
def test_unit_commands_exist(units: Path, tmp_path: Path, name: str) -> None:
    """Runs ExecStart as systemd parses it, but with an invalid config, which the program must report."""
    (line,) = re.findall(r"^ExecStart=(.+)$", (units / name).read_text(), re.MULTILINE)
    line = line.replace("%i", "0-2").replace("%%", "%").replace("$$", "$")
    line = line.replace("/etc/lookalike/lookalike.yaml", str(tmp_path / "none.yaml"))
    result = subprocess.run(["sh", "-c", f"exec {line}"], check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert "none.yaml cannot be read" in result.stderr


def test_a_shard_unit_takes_partition_and_replica_from_its_name(units: Path, tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text(f"shard: {{data: {tmp_path}/data, address: 'nowhere.invalid:1'}}\npartitions: 1\n")
    (line,) = re.findall(r"^ExecStart=(.+)$", (units / NAMES[2]).read_text(), re.MULTILINE)
    line = (
        line.replace("%i", "1-12")
        .replace("%%", "%")
        .replace("$$", "$")
        .replace("/etc/lookalike/lookalike.yaml", str(config))
    )
    result = subprocess.run(["sh", "-c", f"exec {line}"], check=False, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert [folder.name for folder in (tmp_path / "data").iterdir()] == ["r1-12"]


def test_the_encoder_finds_the_token_where_ray_up_puts_it() -> None:
    """Both run as the same user, whose home is outside the folders that ProtectHome hides."""
    document = yaml.safe_load((DEPLOY / "ray/cluster.yaml").read_text())
    assert document["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    user, home = document["auth"]["ssh_user"], "/var/lib/lookalike"
    assert f'u {user} 10001 "Lookalike" {home}\n' in (UNITS / "lookalike.sysusers").read_text()
    unit = (UNITS / "lookalike-encoder.service").read_text()
    assert f"User={user}\n" in unit
    assert f"HOME={home}\n" in unit


def test_ray_accepts_its_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    document = yaml.safe_load((DEPLOY / "ray/cluster.yaml").read_text())
    validate_config(prepare_config(document))
    starts = [*document["head_start_ray_commands"], *document["worker_start_ray_commands"]]
    assert sum("ray start" in line for line in starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    assert all(subprocess.run(["sh", "-nc", line], check=False).returncode == 0 for line in starts)
