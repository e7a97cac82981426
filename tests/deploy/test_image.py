"""The Containerfile is valid, and the installed files form a complete program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.render import DEPLOY, ROOT, image_environment, tool

CONTAINERFILE = DEPLOY / "Containerfile"


def context(target: Path) -> Path:
    """The files that .containerignore lets into the build, which are all that COPY can copy."""
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".containerignore").read_text(), re.MULTILINE)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in allowed:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(source, target / name)
    return target


def test_hadolint_reports_nothing() -> None:
    result = subprocess.run([tool("hadolint"), CONTAINERFILE], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_copied_files_form_a_complete_program(tmp_path: Path) -> None:
    """The wheel from the build's context has the commands that the manifests run."""
    source = context(tmp_path / "context")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert all((source / name).exists() for line in copied for name in line.split())
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", site, source], check=True)
    installed = {str(file.relative_to(site)) for file in site.rglob("*")}
    packages = ("lookalike", "shard", "coordinator", "encoder", "lab")
    given = {str(file.relative_to(source)) for name in packages for file in (source / name).rglob("*.*")}
    assert not given - installed, "files that the program reads, but that are not installed"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    names = ", ".join(f"{name}.__file__" for name in packages)
    where = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(packages)}; print({names}, sep='\\n')"],
        env=environment, cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert [Path(file).parent for file in where] == [site / name for name in packages]
    for command in (["lookalike", "health"], ["shard"], ["coordinator"], ["encoder"]):
        subprocess.run(
            [sys.executable, "-m", *command, "--help"],
            env=environment, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def test_changed_sources_keep_the_layers_of_their_dependencies(tmp_path: Path) -> None:
    """The dependencies are installed for a project without sources, so that must work, and precede the copy of the
    sources."""
    stages = re.split(r"^FROM .* AS ", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    needs = [stage for stage in stages if "pip install -c constraints.txt" in stage]
    assert len(needs) == 2
    assert not any("COPY" in stage for stage in needs)
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    site = tmp_path / "site"
    subprocess.run([*pip, "--disable-pip-version-check", "--target", site, tmp_path], check=True)
    (information,) = site.glob("*.dist-info")
    assert "Provides-Extra: encoder" in (information / "METADATA").read_text()
    assert {path.name for path in site.iterdir()} == {information.name, "bin"}


def test_the_sources_of_ingestion_on_kubernetes_can_be_read() -> None:
    overlays = (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml")
    schemes = set(re.findall(r"source=(\w+)://", "".join(file.read_text() for file in overlays)))
    assert schemes == {"s3"}
    installs = re.findall(
        r"^ARG STORES=(.+)\n(?:#.*\n)*RUN pip install .*\$STORES", CONTAINERFILE.read_text(), re.MULTILINE
    )
    assert installs == ["s3fs", "s3fs"]


def test_bytecode_is_valid_whatever_the_times_of_the_copied_files() -> None:
    """Python's own rule: it then names sources by hash. deploy/images.sh checks the images themselves."""
    (setting,) = re.findall(r"^ENV .*\bSOURCE_DATE_EPOCH=(\d+)$", CONTAINERFILE.read_text(), re.MULTILINE)
    program = "import py_compile; print(py_compile._get_default_invalidation_mode().name)"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": setting}
    mode = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert mode.stdout == "CHECKED_HASH\n"


def test_the_image_runs_as_a_fixed_unprivileged_user() -> None:
    text = CONTAINERFILE.read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    assert text.count("\nHEALTHCHECK ") == 2
    assert "STOPSIGNAL SIGTERM" in text


def test_the_image_sets_the_allocator_of_the_encoder() -> None:
    """The same settings as the program's own, which Ray's workers on other nodes do not inherit from it."""
    from encoder import __file__ as source

    program = dict(re.findall(r'"(MALLOC_\w+)": "(\d+)"', Path(source).read_text()))
    assert len(program) == 3
    assert program.items() <= image_environment("encoder").items()


def test_the_image_claims_no_unrequested_gpus() -> None:
    """NVIDIA's runtime reads this variable; the device plugin and `docker run --gpus` set it."""
    assert "NVIDIA_VISIBLE_DEVICES" not in image_environment("encoder")
