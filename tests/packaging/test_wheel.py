"""The wheel, installed as a user installs it: in an environment with only the client and its dependencies."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import Cluster

ROOT = Path(__file__).parents[2]
# Made by `make setup`, because tests run without a network.
WHEELHOUSE = Path(sys.prefix) / "wheelhouse"

PROGRAM = """
import sys
from lookalike import Client, Record, errors, filters

address = sys.argv[1]
with Client(address) as client:
    client.create_collection("from-a-wheel", bits=64)
    records = [Record(key=f"{n}", code=bytes([n] * 8), attributes={"n": n}) for n in range(4)]
    assert client.upsert(records, collection="from-a-wheel") == 4
    result = client.search(code=bytes([1] * 8), k=2, collection="from-a-wheel", filter={"n": {"$gt": 0}})
    assert [(hit.key, hit.distance) for hit in result.hits] == [("1", 0), ("3", 8)], result.hits
    assert result.exact and result.coverage.complete
    try:
        client.search(code=b"short", collection="from-a-wheel")
    except errors.InvalidRequest:
        print("works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `python -m build --wheel` does, with the build's dependencies already installed."""
    folder = tmp_path_factory.mktemp("dist")
    # setuptools writes its build folder into the source tree, so the build gets a copy.
    source = tmp_path_factory.mktemp("source") / "lookalike"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", source], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("lookalike-*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment into which only the wheel and its dependencies were installed."""
    environment = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", WHEELHOUSE, wheel], check=True
    )
    return python


def test_wheel_installed_in_a_clean_environment_works_as_a_client(
    clean_python: Path, cluster: Cluster, tmp_path: Path
) -> None:
    done = subprocess.run(
        [clean_python, "-c", PROGRAM, cluster.address], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "works\n"), done.stderr


def test_command_of_the_wheel_reads_a_cluster_status(clean_python: Path, cluster: Cluster, tmp_path: Path) -> None:
    command = clean_python.with_name("lookalike")
    done = subprocess.run(
        [command, "status", "--server", cluster.address], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "partition" in done.stdout


def test_command_that_needs_an_extra_names_it(clean_python: Path, tmp_path: Path) -> None:
    command = clean_python.with_name("lookalike")
    done = subprocess.run([command, "ingest", "photos"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    assert "ingest: needs" in done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_that_need_the_servers_packages_name_the_extra(clean_python: Path, tmp_path: Path) -> None:
    command = clean_python.with_name("lookalike")
    for arguments, extra in ((("certificates", "tls"), "certificates"), (("targets", "targets.json"), "server")):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert done.returncode == 1
        assert f"{arguments[0]}: needs " in done.stderr
        assert f"pip install '.[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_wheel_holds_its_licence_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
