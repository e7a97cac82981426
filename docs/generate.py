"""Generates docs/api from the contracts' comments, the SDK's docstrings and the commands' help, or with --check
says whether it is current."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

import lookalike
from lookalike.cli import app
from lookalike.model import errors, filters

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "api"
HELP_WIDTH = 100
_CLIENTS = ("Client", "AsyncClient")
_NOTE = "<!-- Made by docs/generate.py (`make docs`): change the source, not this page. -->\n"

# The places of things in a FileDescriptorProto's source info: see descriptor.proto.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED_MESSAGE, _NESTED_ENUM, _METHOD, _VALUE = 2, 3, 4, 2, 2


def pages() -> dict[str, str]:
    """Each page's text by its file's name."""
    return {
        "PROTOS.md": _page("The contracts", protos()),
        "PYTHON.md": _page("The Python SDK", python()),
        "CLI.md": _page("The command line", command_line()),
    }


def _page(title: str, parts: Iterator[str]) -> str:
    return f"# {title}\n\n{_NOTE}\n" + "\n\n".join(filter(None, parts)) + "\n"


def protos() -> Iterator[str]:
    """Services, messages and enums of protos/, file by file."""
    for file in _descriptors():
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        yield f"## {file.name}"
        for i, service in enumerate(file.service):
            yield f"### service {service.name}"
            yield _prose(comments.get((_SERVICE, i), ""))
            rows = [
                (
                    f"`{method.name}`",
                    f"{'stream ' if method.client_streaming else ''}{_link(method.input_type)}",
                    f"{'stream ' if method.server_streaming else ''}{_link(method.output_type)}",
                    _line(comments.get((_SERVICE, i, _METHOD, j), "")),
                )
                for j, method in enumerate(service.method)
            ]
            yield _table(("method", "request", "response", ""), rows)
        for i, message in enumerate(file.message_type):
            yield from _message(message, (_MESSAGE, i), comments)
        for i, enum in enumerate(file.enum_type):
            yield from _enum(enum, (_ENUM, i), comments)


def _descriptors() -> list[FileDescriptorProto]:
    contracts = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    bundled = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"
        arguments = ["protoc", f"-I{ROOT / 'protos'}", f"-I{bundled}", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={output}", *contracts]) != 0:
            sys.exit("error: protoc failed")
        return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def _message(
    message: DescriptorProto, path: tuple[int, ...], comments: dict[Any, str], outer: str = ""
) -> Iterator[str]:
    yield f"### {outer}{message.name}"
    yield _prose(comments.get(path, ""))
    rows = [
        (
            str(field.number),
            f"`{field.name}`",
            _type(field),
            _line(comments.get((*path, _FIELD, i), "")) or _alternative(message, field),
        )
        for i, field in enumerate(message.field)
    ]
    if rows:
        yield _table(("", "field", "type", ""), rows)
    for i, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*path, _NESTED_ENUM, i), comments, f"{outer}{message.name}.")
    for i, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(nested, (*path, _NESTED_MESSAGE, i), comments, f"{outer}{message.name}.")


def _enum(enum: Any, path: tuple[int, ...], comments: dict[Any, str], outer: str = "") -> Iterator[str]:
    yield f"### {outer}{enum.name}"
    yield _prose(comments.get(path, ""))
    rows = [
        (str(value.number), f"`{value.name}`", _line(comments.get((*path, _VALUE, i), "")))
        for i, value in enumerate(enum.value)
    ]
    yield _table(("", "value", ""), rows)


def _alternative(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    is_choice = field.HasField("oneof_index") and not field.proto3_optional
    return f"one of `{message.oneof_decl[field.oneof_index].name}`" if is_choice else ""


def _type(field: FieldDescriptorProto) -> str:
    plain = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = _link(field.type_name) if field.type_name else plain
    prefix = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return ("optional " if field.proto3_optional else prefix) + name


def _link(type_name: str) -> str:
    short = type_name.removeprefix(".lookalike.v1.")
    return f"[{short}](#{short.lower().replace('.', '')})"


def python() -> Iterator[str]:
    """The names that `lookalike` exports, its errors, and its filters."""
    yield inspect.getdoc(lookalike) or ""
    for name in [*_CLIENTS, *sorted(set(lookalike.__all__) - set(_CLIENTS))]:
        yield from _class(name, getattr(lookalike, name))
    yield "## Errors: `lookalike.errors`"
    yield from _error_table(errors)
    yield "## Filters: `lookalike.filters`"
    yield inspect.getdoc(filters) or ""


def _class(name: str, kind: type) -> Iterator[str]:
    yield f"## {name}"
    yield _fenced(f"class {name}{_signature(kind)}")
    # A dataclass without a docstring has its signature for one.
    if not (dataclasses.is_dataclass(kind) and (kind.__doc__ or "").startswith(f"{name}(")):
        yield inspect.getdoc(kind) or ""
    for method_name, member in vars(kind).items():
        if method_name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        if kind is lookalike.AsyncClient and hasattr(lookalike.Client, method_name):
            continue
        if isinstance(member, property):
            yield f"**`.{method_name}`** {_line(inspect.getdoc(member) or '')}"
        else:
            word = "async def" if inspect.iscoroutinefunction(member) else "def"
            yield f"### {name}.{method_name}"
            yield _fenced(f"{word} {method_name}{_signature(member)}")
            yield inspect.getdoc(member) or ""


def _signature(thing: Any) -> str:
    """As written, but on several lines if it is long."""
    signature = inspect.signature(thing)
    parts: list[str] = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        if one.name != "self":
            parts.append(_parameter(one))
    answer = "" if isinstance(thing, type) else f" -> {signature.return_annotation}"
    if len(text := f"({', '.join(parts)}){answer}") <= HELP_WIDTH - 20:
        return text
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){answer}"


def _parameter(one: inspect.Parameter) -> str:
    name = one.name if one.annotation is one.empty else f"{one.name}: {one.annotation}"
    return name if one.default is one.empty else f"{name} = {one.default!r}"


def _error_table(module: ModuleType) -> Iterator[str]:
    rows = [
        (f"`{name}`", f"`{kind.status}`", _line(inspect.getdoc(kind) or ""))
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, errors.LookalikeError) and not name.startswith("_")
    ]
    yield _table(("class", "gRPC status", ""), rows)


def command_line() -> Iterator[str]:
    """Each command's help."""
    root = typer.main.get_command(app)
    yield from _command(root, "lookalike", None)


def _command(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = command.make_context(
        name.rpartition(" ")[2], [], parent, resilient_parsing=True, max_content_width=HELP_WIDTH,
        terminal_width=HELP_WIDTH,
    )  # fmt: skip
    yield f"## {name}"
    yield _fenced(command.get_help(context), "text")
    if hasattr(command, "list_commands"):
        for inner in command.list_commands(context):
            yield from _command(command.get_command(context, inner), f"{name} {inner}", context)


def _fenced(text: str, language: str = "py") -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```{language}\n{lines}\n```"


def _prose(comment: str) -> str:
    return textwrap.dedent("\n".join(line.removeprefix(" ") for line in comment.splitlines())).strip()


def _line(text: str) -> str:
    """On one line, as a table's cell wants it."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *rows])


def main() -> None:
    fresh = pages()
    if "--check" not in sys.argv[1:]:
        TARGET.mkdir(exist_ok=True)
        for name, text in fresh.items():
            (TARGET / name).write_text(text, encoding="utf-8")
        return
    stale = [name for name, text in fresh.items() if not _is_current(TARGET / name, text)]
    if stale:
        sys.exit(f"error: not current: {', '.join(stale)}; run `make docs`")
    print("docs/api is current")


def _is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
