"""Owns the command-line options that the encoder's and the lab's commands share. Imports neither torch nor Ray."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from lookalike.model.errors import CannotStart, InvalidRequest
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.config import EncoderConfig, LimitsConfig, load_config

Paths = Annotated[list[str], typer.Argument(help="Folders, globs, files, or URLs such as s3://bucket/photos.")]
Config = Annotated[Path | None, typer.Option(help="The cluster's config; its encoder section is used.")]
NewCollectionsEncoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="The encoder whose code space a new collection gets; `lookalike status` lists the encoders.",
        metavar="NAME",
    ),
]
Dataset = Annotated[
    str,
    typer.Argument(
        help="cifar10, caltech101, flowers102 or coco2017 (downloaded if missing); or a folder with a sub-folder"
        " for each class, or a .tar or .zip of such a folder."
    ),
]
CodeFormat = Annotated[
    Literal["packed", "bits", "hex", "base64", "bit-text", "int8-offset"] | None,
    typer.Option(help="The format of the codes. By default it is recognized; ambiguous codes are refused."),
]
Model = Annotated[str, typer.Option(help="The name of a torchvision or timm model.")]
Weights = Annotated[
    Path | None, typer.Option(help="A .pth or .safetensors file instead of the pretrained weights.")
]
Seed = Annotated[
    int,
    typer.Option(
        help="Seed of the split into indexed images and queries, and of random numbers.", min=0, max=2**32 - 1
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Use at most N images, evenly over the classes.", metavar="N", min=2)
]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="The folder of data sets and downloads; `datasets` in --cache by default."),
]
CacheFolder = Annotated[
    Path | None, typer.Option(help="The folder of cached features; the user's cache folder by default.")
]


def require_folder(field: str, path: Path) -> Path:
    """Creates a folder for results, before the work begins. Raises InvalidRequest if it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise InvalidRequest(
            f"{field}: {path} cannot be written to ({error.strerror}); name another folder"
        ) from None


def require_file(field: str, path: Path) -> Path:
    """Checks that a result's file can be written, before the work begins. Raises InvalidRequest if it cannot."""
    if path.is_dir():
        raise InvalidRequest(f"{field}: {path} is a folder; name a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InvalidRequest(f"{field}: {path.parent} is not a writable folder; create it first")
    return path


def console() -> Console:
    """A console on standard error. Results go to standard output."""
    return Console(stderr=True)


def encoder_section(config: Path | None, name: str = DEFAULT_ENCODER) -> EncoderConfig:
    """The section of an encoder in the config, or the defaults without a config. Raises CannotStart."""
    if config is None:
        if name != DEFAULT_ENCODER:
            raise InvalidRequest(f"encoder: {name!r} needs --config, the config that has it")
        return EncoderConfig()
    found = encoder_sections(config)
    if name not in found:
        raise CannotStart(f"encoder: {config} has no encoder {name!r}; use one of {', '.join(found)}")
    return found[name]


def encoder_sections(config: Path) -> dict[str, EncoderConfig]:
    """The sections of all encoders in the config, by name. Raises CannotStart if it has none."""
    found = load_config(config).all_encoders
    if not found:
        raise CannotStart(f"config: {config} says `encoder: null`; add an encoder, or leave --config out")
    return found


def limits_section(config: Path | None) -> LimitsConfig:
    """The config's limits section, or the defaults without a config. Raises CannotStart."""
    return LimitsConfig() if config is None else load_config(config).limits
