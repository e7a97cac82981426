"""Owns `lookalike collection ...`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli import alias
from lookalike.cli.confirm import Yes, confirm
from lookalike.cli.options import DEFAULT_SERVER, Json, Server, connect, print_json
from lookalike.cli.progress import records_bar
from lookalike.cli.records import FilterText, json_filter
from lookalike.files.atomic import write_bytes
from lookalike.model.code_kinds import KINDS
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.features import NONE
from lookalike.model.indexing import SCAN
from lookalike.model.records import Collection
from lookalike.model.ttl import Ttl, parse_age

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list, show, rename, copy and drop collections; set their aliases and TTL.",
    add_completion=False,
)
app.add_typer(alias.app, name="alias")
Name = Annotated[str, typer.Argument(help="The collection's name.")]
NewName = Annotated[str, typer.Argument(help="The new name.")]
Age = Annotated[
    str | None,
    typer.Option(help="Records expire this long after their last write: 90s, 12h, 30d.", metavar="AGE"),
]
ExpiresAt = Annotated[
    str | None,
    typer.Option(
        help="Records expire at the time in this attribute: seconds since 1970, or text such as"
        " 2026-01-31T12:00:00Z.",
        metavar="ATTRIBUTE",
    ),
]


@app.command()
def create(
    name: Name,
    bits: Annotated[
        int | None,
        typer.Option(help="Width of codes that are made elsewhere. By default the encoder makes the codes."),
    ] = None,
    code_kind: Annotated[
        str | None,
        typer.Option(help=f"Which tool makes the codes: {', '.join(KINDS)}.", metavar="KIND"),
    ] = None,
    index: Annotated[
        str,
        typer.Option(
            help="scan; or mih, which is faster for close neighbours in large collections (64..512 bits)."
        ),
    ] = SCAN,
    index_attribute: Annotated[
        list[str] | None, typer.Option(help="An attribute to index for filters; can be repeated.")
    ] = None,
    features: Annotated[
        str, typer.Option(help="none, int8 or float16: store each image's features, for reranking.")
    ] = NONE,
    feature_width: Annotated[
        int, typer.Option(help="Values per feature vector, for codes that are made elsewhere.", min=0)
    ] = 0,
    ttl_age: Age = None,
    ttl_attribute: ExpiresAt = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="The encoder whose code space it gets; `lookalike status` lists the encoders."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Create a collection in an encoder's code space, or for codes that are made elsewhere."""
    space = None if code_kind is None else CodeSpace.of_kind(code_kind, bits)
    with connect(server) as client:
        collection = client.create_collection(
            name, bits=bits if space is None else None, code_space=space, index=index,
            index_attributes=index_attribute or [], features=features, feature_width=feature_width,
            ttl=_ttl(ttl_age, ttl_attribute),
            encoder=encoder,
        )  # fmt: skip
        _show([collection], as_json)


@app.command("list")
def list_(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List all collections."""
    with connect(server) as client:
        collections = client.list_collections()
    if as_json:
        print_json([_document(collection) for collection in collections])
    else:
        _show(collections, as_json)


@app.command()
def show(name: Name, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Show a collection's rows and code space."""
    with connect(server) as client:
        _show([client.get_collection(name)], as_json)


@app.command("hash")
def hash_(
    name: Name,
    output: Annotated[Path, typer.Option(help="The file to write; set encoder.hash to it in the config.")],
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Write a collection's hash to a file, so that an encoder can make codes for the collection."""
    with connect(server) as client:
        data = client.get_hash_file(name)
    if not data:
        raise NotFound(f"hash: collection {name!r} has none; its codes are made elsewhere")
    try:
        if output.exists() and not output.is_file():
            output.write_bytes(data)  # such as /dev/stdout, which must not be replaced
        else:
            write_bytes(output, data)
    except OSError as error:
        raise InvalidRequest(f"output: {output} cannot be written to ({error.strerror}); name a file") from None
    if as_json:
        print_json({"output": str(output), "bytes": len(data)})
    else:
        print(f"{output}: {len(data):,} bytes; set encoder.hash to it")


@app.command()
def rename(name: Name, new_name: NewName, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Rename a collection. When the command ends, no request sees the old name any more."""
    with connect(server) as client:
        _show([client.rename_collection(name, new_name)], as_json)


@app.command()
def ttl(
    name: Name,
    age: Age = None,
    attribute: ExpiresAt = None,
    off: Annotated[bool, typer.Option("--off", help="Records never expire.")] = False,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Set when the records of a collection expire. Expired records are deleted."""
    if sum((age is not None, attribute is not None, off)) != 1:
        raise InvalidRequest("ttl: give --age, --attribute or --off, one of the three")
    with connect(server) as client:
        _show([client.set_ttl(name, _ttl(age, attribute))], as_json)


@app.command()
def copy(
    source: Annotated[str, typer.Argument(help="The collection to copy.")],
    target: Annotated[str, typer.Argument(help="The collection to create.")],
    filter_: FilterText = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a copy; copy what an existing target lacks.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Copy a collection, or its records that match a filter, while it serves."""
    condition = json_filter(filter_, "filter")
    records = copied = 0
    with connect(server) as client:
        total = client.count(collection=source, filter=condition).count
        with records_bar("copying", total) as bar:
            for page in client.copy_collection(source, target, filter=condition, resume=resume):
                records, copied = records + page.records, copied + page.copied
                bar.completed(records)
    if as_json:
        print_json({"source": source, "target": target, "records": records, "copied": copied})
    else:
        kept = f"; {target} has {records - copied:,} of them already" if records > copied else ""
        print(f"copied {copied:,} of {records:,} records of {source} to {target}{kept}")


@app.command()
def drop(name: Name, yes: Yes = False, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Delete a collection and all its records. Asks first."""
    with connect(server) as client:
        if not yes:
            confirm(f"drop collection {name!r} with {client.get_collection(name).rows:,} records", yes)
        client.drop_collection(name)
    if as_json:
        print_json({"dropped": name})


def _ttl(age: str | None, attribute: str | None) -> Ttl | None:
    if age is not None and attribute is not None:
        raise InvalidRequest("ttl: give an age or an attribute, one of the two")
    if age is not None:
        return Ttl(age_seconds=parse_age(age))
    return None if attribute is None else Ttl(attribute=attribute)


def _document(collection: Collection) -> dict[str, Any]:
    return {**dataclasses.asdict(collection), "fingerprint": collection.code_space.fingerprint}


def _show(collections: list[Collection], as_json: bool) -> None:
    for collection in collections:
        if as_json:
            print_json(_document(collection))
            continue
        space = collection.code_space
        print(
            f"{collection.name}: {collection.rows:,} rows, {space.bits} bits, {space.backbone}"
            f" {space.hash_method}, {space.fingerprint[:12]}, index {collection.indexing.kind}"
            + "".join(f", attribute {field}" for field in collection.indexing.attributes)
            + (f", features {collection.indexing.features}" if collection.indexing.keeps_features else "")
            + "".join(f", alias {alias}" for alias in collection.aliases)
            + _ttl_text(collection.ttl)
        )


def _ttl_text(ttl: Ttl | None) -> str:
    if ttl is None:
        return ""
    return f", expires at {ttl.attribute}" if ttl.attribute else f", expires after {ttl.age_seconds:,} s"
