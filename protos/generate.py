"""Generates lookalike/v1 from the .proto files. With --check, verifies that it is up to date instead."""

from __future__ import annotations

import filecmp
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parent
TARGET = PROTOS.parent / "lookalike" / "v1"
COMMENTS = "comments.json"
# Field numbers in descriptor.proto: a file's messages, a message's fields and nested messages.
_MESSAGES, _FIELDS, _NESTED = 4, 2, 3


def generate(output: Path) -> None:
    """Writes the stubs (.py and .pyi) of every .proto file to `output`/lookalike/v1, and the comments, which stubs
    do not contain at run time, to comments.json."""
    bundled = resources.files("grpc_tools") / "_proto"
    contracts = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"-I{bundled}"]
    arguments += [f"--{kind}_out={output}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    scripts = Path(sys.executable).parent
    arguments += [f"--plugin={scripts / f'protoc-gen-{kind}'}" for kind in ("mypy", "mypy_grpc")]
    with tempfile.NamedTemporaryFile() as descriptors:
        arguments += ["--include_source_info", f"--descriptor_set_out={descriptors.name}"]
        if protoc.main([*arguments, *contracts]) != 0:
            sys.exit("error: protoc failed")
        files = FileDescriptorSet.FromString(descriptors.read()).file
    comments = dict(sorted(pair for file in files for pair in _comments_in(file)))
    target = output / "lookalike" / "v1" / COMMENTS
    target.write_text(json.dumps(comments, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _comments_in(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Yields the full name and the leading comment of each message and field that has one."""
    by_path = {
        tuple(location.path): " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
    }

    def of_message(message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[tuple[str, str]]:
        yield name, by_path.get(path, "")
        for index, field in enumerate(message.field):
            yield f"{name}.{field.name}", by_path.get((*path, _FIELDS, index), "")
        for index, inner in enumerate(message.nested_type):
            yield from of_message(inner, (*path, _NESTED, index), f"{name}.{inner.name}")

    for index, message in enumerate(file.message_type):
        found = of_message(message, (_MESSAGES, index), f"{file.package}.{message.name}")
        yield from ((name, text) for name, text in found if text)


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(PROTOS.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "lookalike" / "v1"
        names = sorted({path.name for base in (fresh, TARGET) for path in base.glob("*_pb2*")} | {COMMENTS})
        _, different, missing = filecmp.cmpfiles(fresh, TARGET, names, shallow=False)
    if different or missing:
        sys.exit(f"error: out of date: {', '.join(different + missing)}; run `make protos`")
    print("stubs are up to date")


if __name__ == "__main__":
    main()
