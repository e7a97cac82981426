"""Owns the command-line options that training and evaluation share. Light: neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Dataset = Annotated[
    str,
    typer.Argument(
        help="cifar10, caltech101, flowers102 or coco2017 (downloaded where there is a network); or a folder"
        " with a sub-folder for each class, or a .tar or .zip of one."
    ),
]
Model = Annotated[str, typer.Option(help="A torchvision or timm model by name.")]
Weights = Annotated[
    Path | None, typer.Option(help="A .pth or .safetensors file instead of the pretrained weights.")
]
Seed = Annotated[
    int, typer.Option(help="Of the split into indexed images and queries, and of what is drawn.", min=0)
]
Limit = Annotated[int | None, typer.Option(help="Take so many of the images, evenly over the classes.", min=2)]
DataFolder = Annotated[
    Path | None, typer.Option(help="Where data sets are kept or downloaded to; CACHE/datasets by default.")
]
CacheFolder = Annotated[
    Path | None, typer.Option(help="Where features are kept; the user's cache folder by default.")
]


def console() -> Console:
    """Progress goes to standard error, results to standard output."""
    return Console(stderr=True)
