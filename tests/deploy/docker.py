"""Stands in for Docker and checks the arguments: the Containerfile has a build's target and arguments, the
manifests use its tag, and compose has the services. `python -m tests.deploy.docker`"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import yaml

from tests.deploy.render import DEPLOY, compose


def main() -> None:
    parser = argparse.ArgumentParser(prog="docker", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build")
    build.add_argument("-f", dest="file", type=Path, required=True)
    build.add_argument("-t", dest="tag", required=True)
    build.add_argument("--target", required=True)
    build.add_argument("--build-arg", dest="arguments", action="append", default=[])
    build.add_argument("context", type=Path)
    whole = verbs.add_parser("compose")
    whole.add_argument("what", choices=("build", "up"))
    for flag in ("-d", "--wait", "--no-deps", "--remove-orphans"):
        whole.add_argument(flag, action="store_true")
    given, services = parser.parse_known_args()
    if given.verb == "build":
        assert not services, services
        require_build(given.file.read_text(), given.target, given.arguments, given.tag)
    else:
        known = compose(Path.cwd())["services"].keys()
        assert set(services) <= known, f"{set(services) - known} are not services"


def require_build(containerfile: str, target: str, arguments: list[str], tag: str) -> None:
    assert re.search(rf"^FROM \S+ AS {target}$", containerfile, re.MULTILINE), target
    for argument in arguments:
        name, _, _ = argument.partition("=")
        assert re.search(rf"^ARG {name}=", containerfile, re.MULTILINE), name
    overlays = (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml")
    images = (one for file in overlays for one in yaml.safe_load(file.read_text())["images"])
    asked_for = {f"{one['name']}:{one['newTag']}" for one in images}
    assert tag in asked_for, f"{tag} is not in {sorted(asked_for)}"


if __name__ == "__main__":
    main()
