"""Owns `lookalike collection alias ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli.options import DEFAULT_SERVER, Json, Server, connect, print_json

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Give collections other names, and point these names to other collections.",
    add_completion=False,
)
Alias = Annotated[str, typer.Argument(help="The alias.")]
Target = Annotated[str, typer.Argument(help="The collection, or another of its aliases.")]


@app.command()
def create(alias: Alias, collection: Target, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Create an alias. Every command that takes a collection also takes an alias, except rename and drop."""
    with connect(server) as client:
        client.create_alias(alias, collection)
    _show({alias: collection}, as_json)


@app.command()
def switch(alias: Alias, collection: Target, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Point an alias to another collection. When the command ends, every request sees the new collection."""
    with connect(server) as client:
        client.switch_alias(alias, collection)
    _show({alias: collection}, as_json)


@app.command()
def delete(alias: Alias, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Delete an alias. Its collection stays."""
    with connect(server) as client:
        client.delete_alias(alias)
    if as_json:
        print_json({"deleted": alias})


@app.command("list")
def list_(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List all aliases."""
    with connect(server) as client:
        _show(client.list_aliases(), as_json)


def _show(aliases: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(aliases)
        return
    for alias, collection in aliases.items():
        print(f"{alias}: {collection}")
