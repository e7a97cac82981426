"""The Python versions that pyproject.toml lists: its dependencies resolve for each of them.

uv resolves for another version than the one that runs, markers included (pip evaluates them for its own version),
and reads the metadata of packages only, so that torch is not downloaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
REQUIRE_INDEX = "LOOKALIKE_REQUIRE_INDEX"

# `pdq` has no wheels for any version: pip compiles it. `dev` is for working on this project.
WITHOUT_WHEELS = {"pdq"}
NOT_FOR_USERS = {"dev"}


def project() -> dict[str, object]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(table, dict)
    return table


def listed_versions() -> list[str]:
    classifiers = project()["classifiers"]
    assert isinstance(classifiers, list)
    return re.findall(r"Programming Language :: Python :: (3\.\d+)$", "\n".join(classifiers), re.MULTILINE)


def extras() -> list[str]:
    optional = project()["optional-dependencies"]
    assert isinstance(optional, dict)
    assert optional.keys() >= WITHOUT_WHEELS | NOT_FOR_USERS
    return sorted(optional.keys() - WITHOUT_WHEELS - NOT_FOR_USERS)


def resolve(source: Path, version: str, extras: list[str]) -> subprocess.CompletedProcess[str]:
    """The newest wheels that the ranges of `source` allow, as for a user: constraints.txt plays no part."""
    required = REQUIRE_INDEX in os.environ
    selected = [argument for extra in extras for argument in ("--extra", extra)]
    done = subprocess.run(
        [
            UV, "pip", "compile", source, *selected, "--python-version", version, "--python-platform", "linux",
            "--only-binary", ":all:", "--no-config", "--no-header", "--no-annotate", "--quiet",
        ],
        capture_output=True, text=True, timeout=240,
        env={**os.environ, "UV_HTTP_RETRIES": "3" if required else "0"},
    )  # fmt: skip
    if "Failed to fetch" in done.stderr and not required:
        pytest.skip(f"no package index can be reached; set {REQUIRE_INDEX}=1 to make this an error")
    return done


def test_the_minimum_version_is_the_first_that_is_listed() -> None:
    assert project()["requires-python"] == f">={listed_versions()[0]}"
    assert listed_versions() == ["3.11", "3.12", "3.13", "3.14"]


# One solution for all extras together is a solution for each of them.
@pytest.mark.parametrize("version", listed_versions())
def test_dependencies_of_all_extras_resolve_to_wheels(version: str) -> None:
    done = resolve(ROOT / "pyproject.toml", version, extras())
    assert done.returncode == 0, done.stderr
    pins = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)
    assert pins.keys() >= {"grpcio", "numba", "torch", "ray", "h5py", "opentelemetry-sdk"}


def test_a_version_without_wheels_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "pyproject.toml"
    # This release has no wheel for 3.13, and its marker applies to 3.13 only.
    source.write_text(
        "[project]\nname = 'probe'\nversion = '1'\ndependencies = [\"numba==0.60.0; python_version == '3.13'\"]\n"
    )
    assert resolve(source, "3.12", []).returncode == 0
    done = resolve(source, "3.13", [])
    assert done.returncode == 1
    assert "numba" in done.stderr
