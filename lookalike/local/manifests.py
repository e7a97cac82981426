"""Owns how a template becomes the manifests of a cluster's shards, for Kubernetes or Compose.

Two kinds of lines split a template into parts: `---`, which begins another document, and `# ---`, which does not.
A part that contains {partition} or {replica} is repeated for each partition or replica. {partitions} is the number
of partitions, {replicas-1} the number of a partition's replicas that remain when one fails. The first line of the
output names the template, so that the file can be generated again."""

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
    """What the first line of a generated file says.

    Attributes:
        template: The template's path, relative to the folder of the generated file.
        partitions: The number of partitions.
        replicas: The number of replicas of each partition.
    """

    template: str
    partitions: int
    replicas: int

    @classmethod
    def read(cls, file: Path) -> Self:
        """Parses the first line of a file. Raises CannotStart if the file is unreadable or was not generated."""
        try:
            match = _ORIGIN.match(file.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise CannotStart(f"manifests: {file} cannot be read: {error.strerror}") from None
        if match is None:
            raise CannotStart(
                f"manifests: {file} does not begin with `# Written by `lookalike manifests` from TEMPLATE: ...`;"
                " copy the folder from deploy/ again"
            )
        return cls(match["template"], int(match["partitions"]), int(match["replicas"]))


def written(template: str, text: str, partitions: int, replicas: int) -> str:
    """Returns the generated file: its header, and the template's text for these shards."""
    header = _HEADER.format(template=template, partitions=partitions, replicas=replicas, config=CONFIG_FILE)
    return header + render(text, partitions, replicas)


def save(file: Path, content: str) -> None:
    """Writes the file atomically. Raises CannotStart if it cannot be written."""
    try:
        with atomic_write(file) as whole:
            whole.write(content.encode())
    except OSError as error:
        raise CannotStart(f"manifests: {file} cannot be written: {error.strerror}") from None


def render(template: str, partitions: int, replicas: int) -> str:
    """Repeats each part of the template as its placeholders require."""
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
