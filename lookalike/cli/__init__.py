"""Owns the `lookalike` command: its subcommands, how they report errors, and their exit codes.

Commands that need more than the client's dependencies are entry points. If a package that a command needs is
missing, the command is still listed; when it is called, it says what to install."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TextIO

import typer

from lookalike.cli import certificates, cluster, collection, health, keys, manifests, options, records, targets
from lookalike.model.errors import InvalidRequest, LookalikeError, UnknownFieldWarning

_ENTRY_POINTS = "lookalike.commands"


class _Group(typer.core.TyperGroup):
    """The commands of this package and of the entry points."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted([*super().list_commands(ctx), *(point.name for point in entry_points(group=_ENTRY_POINTS))])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for point in entry_points(group=_ENTRY_POINTS, name=cmd_name):
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            function, settings = _load(point)
            single.command(cmd_name, context_settings=settings)(function)
            return typer.main.get_command(single)
        return super().get_command(ctx, cmd_name)


def _load(point: Any) -> tuple[Callable[..., None], dict[str, Any]]:
    """Returns the command's function and context settings. If a package is missing, the function accepts any
    arguments and says what to install."""
    try:
        return point.load(), {}
    except ModuleNotFoundError as error:
        remedy = f"needs {error.name}, which is not installed; run pip install '.[all]' in the checkout"

    def missing(context: typer.Context) -> None:
        raise InvalidRequest(f"{point.name}: {remedy}")

    missing.__doc__ = f"({remedy})"
    return missing, {"ignore_unknown_options": True, "allow_extra_args": True}


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(options.credentials)
app.command("up")(cluster.up)
app.command("status")(cluster.status)
app.command("health")(health.health)
app.command("search")(records.search)
app.command("get")(records.get)
app.command("list")(records.list_records)
app.command("count")(records.count)
app.command("facets")(records.facets)
app.command("set")(records.set_attributes)
app.command("delete")(records.delete)
app.command("drain")(cluster.drain)
app.command("manifests")(manifests.manifests)
app.command("certificates")(certificates.certificates)
app.command("targets")(targets.targets)
app.add_typer(cluster.rebalance, name="rebalance")
app.add_typer(keys.app, name="keys")
app.add_typer(collection.app, name="collection")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning as one line, in the place of `warnings.showwarning`."""
    print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Runs a command. The exit code is 0 on success; an error is printed as one line on standard error."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", UnknownFieldWarning)
    if sys.stdout is None:  # the caller closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # open until the process exits
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except LookalikeError as error:
        reference = f" (request {error.request_id})" if error.request_id else ""
        print(f"error: {' '.join(error.message.split())}{reference}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # Python flushes standard output again when the process exits, and that would fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
