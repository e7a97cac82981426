"""Stands in for `kubectl` and a cluster: the real one runs what needs no cluster (kustomize, create --dry-run);
other commands are checked against the objects created and applied before. `python -m tests.deploy.kubectl`"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.deploy.render import Document, kustomize, of_kind, tool

APPLIED = Path(os.environ["KUBECTL_APPLIED"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="kubectl", allow_abbrev=False)
    parser.add_argument("-n", dest="namespace")
    verbs = parser.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create")
    create.add_argument("what", choices=("namespace", "secret", "job"))
    create.add_argument("rest", nargs=argparse.REMAINDER)
    apply = verbs.add_parser("apply")
    apply.add_argument("-k", dest="folder", type=Path)
    apply.add_argument("-f", dest="file", choices=("-",))
    apply.add_argument("-l", dest="label")
    rollout = verbs.add_parser("rollout")
    rollout.add_argument("what", choices=("status", "restart"))
    rollout.add_argument("object")
    delete = verbs.add_parser("delete")
    delete.add_argument("kind")
    delete.add_argument("name")
    forward = verbs.add_parser("port-forward")
    forward.add_argument("object")
    forward.add_argument("ports", nargs="+", type=int)
    get = verbs.add_parser("get")
    get.add_argument("what", choices=("pods",))
    given = parser.parse_args()
    objects = json.loads(APPLIED.read_text()) if APPLIED.exists() else []
    if given.verb == "rollout":
        require(objects, given.object)
    elif given.verb == "delete":
        require(objects, f"{given.kind}/{given.name}")
    elif given.verb == "port-forward":
        ports = {port["port"] for port in require(objects, given.object)["spec"]["ports"]}
        assert ports.issuperset(given.ports), f"{given.object} has the ports {sorted(ports)}"
    elif given.verb == "get":
        assert {"statefulset", "deployment"} <= {one["kind"].lower() for one in objects}, "there are no pods"
    elif given.verb == "create" and given.what == "job":
        (source,) = (word.removeprefix("--from=") for word in given.rest if word.startswith("--from="))
        require(objects, source)
    elif given.verb == "create":
        command = [tool("kubectl"), "create", given.what, *given.rest]
        if "--dry-run=client" in given.rest:
            subprocess.run(command, check=True)
            return
        made = subprocess.check_output([*command, "--dry-run=client", "-o", "yaml"])
        APPLIED.write_text(json.dumps([*objects, yaml.safe_load(made)]))
    else:
        named = yaml.safe_load_all(sys.stdin) if given.file else kustomize(given.folder)
        built = [one for one in named if given.label is None or has(one, given.label)]
        assert built, f"nothing in {given.folder} has {given.label}"
        require_secrets([*objects, *built])
        APPLIED.write_text(json.dumps([*objects, *built]))


def require(objects: list[Document], name: str) -> Document:
    """The object that was applied last under a name, such as `statefulset/shard-r0`, which must exist."""
    kind, _, own = name.partition("/")
    found = [one for one in objects if (one["kind"].lower(), one["metadata"]["name"]) == (kind, own)]
    assert found, f"there is no {name}"
    return found[-1]


def has(one: Document, label: str) -> bool:
    key, _, value = label.partition("=")
    return one["metadata"].get("labels", {}).get(key) == value


def require_secrets(objects: list[Document]) -> None:
    """Asserts that the Secret has the files that lookalike.yaml names."""
    configs = (one["data"].get("lookalike.yaml") for one in of_kind(objects, "ConfigMap").values())
    for security in (yaml.safe_load(text)["security"] for text in configs if text):
        names = {Path(security[key]).name for key in ("cluster_secret", "keys")}
        assert of_kind(objects, "Secret")["lookalike"]["data"].keys() == names


if __name__ == "__main__":
    main()
