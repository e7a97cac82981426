"""The Python versions that pyproject.toml lists: pip finds wheels of its dependencies for each of them.

pip reads the metadata of packages only, and evaluates markers for the version that runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIRE_INDEX = "LOOKALIKE_REQUIRE_INDEX"
REQUIRED = REQUIRE_INDEX in os.environ

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


def requirements(wanted: list[str]) -> list[str]:
    """The requirements of the base install and of these extras, without those that name this project."""
    optional = project()["optional-dependencies"]
    base = project()["dependencies"]
    assert isinstance(optional, dict)
    assert isinstance(base, list)
    return [
        requirement
        for requirement in [*base, *(one for extra in wanted for one in optional[extra])]
        if not requirement.startswith("lookalike[")
    ]


def resolve(requirements: list[str], version: str, folder: Path) -> tuple[int, str, set[str]]:
    """What pip would install: the newest wheels in the ranges, as for a user: constraints.txt plays no part.

    Returns:
        pip's exit code, what it said, and the names of the packages.
    """
    (folder / "requirements.txt").write_text("\n".join(requirements))
    report = folder / "report.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
            "--only-binary", ":all:", "--python-version", version, "--target", folder / "nothing",
            "--report", report, "--requirement", folder / "requirements.txt",
        ],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    if done.returncode:
        return done.returncode, done.stderr, set()
    found = json.loads(report.read_text())["install"]
    return 0, done.stderr, {package["metadata"]["name"].lower() for package in found}


def test_the_minimum_version_is_the_first_that_is_listed() -> None:
    assert project()["requires-python"] == f">={listed_versions()[0]}"
    assert listed_versions() == ["3.11", "3.12", "3.13", "3.14"]


# One solution for all extras together is a solution for each of them. Every test runs on the first version.
@pytest.mark.skipif(not REQUIRED, reason=f"asks a package index; set {REQUIRE_INDEX}=1")
@pytest.mark.parametrize("version", listed_versions()[1:])
def test_dependencies_of_all_extras_resolve_to_wheels(version: str, tmp_path: Path) -> None:
    code, said, names = resolve(requirements(extras()), version, tmp_path)
    assert code == 0, said
    assert names >= {"grpcio", "numba", "torch", "ray", "h5py", "opentelemetry-sdk"}


@pytest.mark.skipif(not REQUIRED, reason=f"asks a package index; set {REQUIRE_INDEX}=1")
def test_a_version_without_wheels_is_noticed(tmp_path: Path) -> None:
    # This release has wheels for 3.12, and none for 3.13.
    assert resolve(["numba==0.60.0"], "3.12", tmp_path)[0] == 0
    code, said, _ = resolve(["numba==0.60.0"], "3.13", tmp_path)
    assert code == 1
    assert "numba" in said
