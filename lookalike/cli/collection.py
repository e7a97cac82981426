"""Owns `lookalike collection ...`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli.options import DEFAULT_SERVER, Json, Server, connect, print_json
from lookalike.files.atomic import write_bytes
from lookalike.model.code_kinds import KINDS
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.features import NONE
from lookalike.model.indexing import SCAN
from lookalike.model.records import Collection

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list, show and drop collections.",
    add_completion=False,
)
Name = Annotated[str, typer.Argument(help="The collection's name.")]


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
    encoder: Annotated[
        str | None,
        typer.Option(help="Which of the cluster's encoders makes the codes; `lookalike status` lists them."),
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
def drop(name: Name, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Delete a collection and all its records."""
    with connect(server) as client:
        client.drop_collection(name)
    if as_json:
        print_json({"dropped": name})


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
        )
