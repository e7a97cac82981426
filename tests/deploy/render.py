"""Owns the content of deploy/ as plain data: Kubernetes objects as kubectl builds them, compose services as
compose merges them, and the environment that the image sets."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

from tests.command import lookalike

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("small", "production", "gpu")
# libyaml's loader, if installed, is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")
Document = dict[str, Any]


def tool(name: str) -> str:
    """The path of a program from the development install, or else from PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed; pip install -e '.[dev]'"
    return found


def copied(target: Path) -> Path:
    """A copy of deploy/, which tests may change."""
    return Path(shutil.copytree(DEPLOY, target / "deploy", symlinks=True))


def manifests(folder: Path, *options: str) -> str:
    """Runs `lookalike manifests FOLDER`; returns what it printed on standard error."""
    code, _, said = lookalike("manifests", folder, *options)
    assert code == 0, said
    return said


def kustomize_text(folder: Path) -> str:
    command = [tool("kubectl"), "kustomize", str(folder)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def kustomize(folder: Path) -> list[Document]:
    """The objects that kubectl would apply."""
    return list(yaml.load_all(kustomize_text(folder), _LOADER))


def of_kind(documents: list[Document], kind: str) -> dict[str, Document]:
    return {one["metadata"]["name"]: one for one in documents if one["kind"] == kind}


def compose(folder: Path) -> Document:
    """compose.yaml with what it includes; the paths of bind mounts are made absolute."""
    document = _interpolated(folder / "compose.yaml")
    merged: Document = {"services": {}, "volumes": {}, "secrets": {}}
    for part, base in [
        *((_interpolated(folder / one), (folder / one).parent) for one in document["include"]),
        (document, folder),
    ]:
        for section in merged:
            for name, value in (part.get(section) or {}).items():
                assert name not in merged[section], f"{section}.{name} is defined twice"
                merged[section][name] = value
        for service in part["services"].values():
            service["volumes"] = [
                {**one, "source": str((base / one["source"]).resolve())} if one["type"] == "bind" else one
                for one in service.get("volumes", [])
            ]
    return merged


def _interpolated(file: Path) -> Document:
    """The file's content with the default of every variable."""
    document: Document = yaml.safe_load(_VARIABLE.sub(r"\1", file.read_text()))
    return document


def image_environment(target: str) -> dict[str, str]:
    """The environment variables of the image of this target, including those of the stages that it is built
    from."""
    parser = DockerfileParser(fileobj=io.BytesIO((DEPLOY / "Containerfile").read_bytes()))
    stages: dict[str, tuple[str, dict[str, str]]] = {}
    current: dict[str, str] = {}
    for step in parser.structure:
        words = step["value"].split()
        if step["instruction"] == "FROM":
            current = {}
            stages[words[-1]] = (words[0], current)
        elif step["instruction"] == "ENV":
            current.update(dict(word.split("=", 1) for word in words))
    collected: dict[str, str] = {}
    while target in stages:
        target, own = stages[target]
        collected = {**own, **collected}
    return collected
