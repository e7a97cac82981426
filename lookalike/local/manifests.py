"""Owns how one template becomes a cluster's shards, for Kubernetes or compose.

A template is split into parts by lines `---`, which begin another document, and `# ---`, which do not. A part that
names {partition} or {replica} is written once for each; {partitions} is how many partitions there are, and
{replicas-1} how many of a partition's replicas stay when one goes. What is written begins with a line that says
where it comes from, and so can be written again."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from lookalike.files.atomic import atomic_write
from lookalike.model.errors import CannotStart

CONFIG_FILE = "lookalike.yaml"
SHARDS_FILE = "shards.yaml"
_DIVIDER = re.compile(r"^((?:# )?---)\n", re.MULTILINE)
_HEADER = (
    "# Written by `lookalike manifests` from {template}: {partitions} x {replicas} shards."
    " Change {config}, not this.\n"
)
_ORIGIN = re.compile(
    r"# Written by `lookalike manifests` from (?P<template>\S+): (?P<partitions>\d+) x (?P<replicas>\d+) "
)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """What the first line of a written file says: its template, as seen from its folder, and how many shards."""

    template: str
    partitions: int
    replicas: int

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises CannotStart if the file has no such line."""
        try:
            match = _ORIGIN.match(file.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise CannotStart(f"manifests: {file} cannot be read: {error.strerror}") from None
        if match is None:
            raise CannotStart(
                f"manifests: {file} does not begin with `# Written by `lookalike manifests` from TEMPLATE: ...`;"
                " copy the folder from deploy/ anew"
            )
        return cls(match["template"], int(match["partitions"]), int(match["replicas"]))


def written(template: str, text: str, partitions: int, replicas: int) -> str:
    """The file for so many shards, from the text of `template`."""
    header = _HEADER.format(template=template, partitions=partitions, replicas=replicas, config=CONFIG_FILE)
    return header + render(text, partitions, replicas)


def save(file: Path, content: str) -> None:
    """Whole or not at all. Raises CannotStart."""
    try:
        with atomic_write(file) as whole:
            whole.write(content.encode())
    except OSError as error:
        raise CannotStart(f"manifests: {file} cannot be written: {error.strerror}") from None


def render(template: str, partitions: int, replicas: int) -> str:
    """The template's parts, each as often as its placeholders say."""
    first, *rest = _DIVIDER.split(template)
    parts = [("", first), *zip(rest[::2], rest[1::2], strict=True)]
    return "".join(
        ("---\n" if divider == "---" else "") + filled
        for divider, part in parts
        for filled in _filled(part, partitions, replicas)
    )


def _filled(part: str, partitions: int, replicas: int) -> Iterator[str]:
    each_replica = range(replicas) if "{replica}" in part else range(1)
    each_partition = range(partitions) if "{partition}" in part else range(1)
    for replica, partition in itertools.product(each_replica, each_partition):
        yield (
            part.replace("{replica}", str(replica))
            .replace("{partition}", str(partition))
            .replace("{partitions}", str(partitions))
            .replace("{replicas-1}", str(replicas - 1))
        )
