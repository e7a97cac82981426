"""Owns `lookalike train`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from encoder.options import (
    CacheFolder,
    DataFolder,
    Dataset,
    Limit,
    Model,
    Seed,
    Weights,
    require_folder,
)
from encoder.progress import PhaseBar
from lookalike.cli.options import Json, print_json
from lookalike.model.codespace import MAX_BITS, MIN_BITS
from lookalike.model.errors import InvalidRequest


def train(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="The folder to write to; an unfinished run in it is resumed.")],
    bits: Annotated[
        int, typer.Option(help="Width of the codes: a multiple of 8.", min=MIN_BITS, max=MAX_BITS)
    ] = 64,
    objective: Annotated[
        Literal["hash", "classes"],
        typer.Option(
            help="hash: learn codes. classes: tune the network to the labels, to extract features later."
        ),
    ] = "hash",
    tune_network: Annotated[
        bool, typer.Option("--tune-network", help="With hash: train the network together with the codes.")
    ] = False,
    model: Model = "tf_efficientnet_lite0",
    weights: Weights = None,
    layer: Annotated[Literal["map", "pooled", "classifier"], typer.Option(help="The layer to hash.")] = "pooled",
    epochs: Annotated[
        int | None, typer.Option(help="Default: 60 for codes alone, 10 if the network is trained.", min=1)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Default: 64 for codes alone, 32 if the network is trained.", min=1)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: 0.01 for codes alone, 0.0001 if the network is trained.")
    ] = None,
    seed: Seed = 0,
    limit: Limit = None,
    data: DataFolder = None,
    cache: CacheFolder = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="The device to train on.")] = "auto",
    as_json: Json = False,
) -> None:
    """Learn codes from labelled images, or tune the network to them.

    Trains on the images that `lookalike evaluate` indexes with the same seed, never on its queries. A checkpoint
    is written after each epoch; the same command resumes from it, with the same result as an uninterrupted run."""
    from encoder.features import FeatureModel
    from lab.datasets import load_dataset
    from lab.feature_cache import default_folder
    from lab.training.recipes import Recipe, schedule_for, train
    from lookalike.model.codespace import CodeSpace

    CodeSpace(bits)
    tunes = tune_network or objective == "classes"
    if tune_network and layer != "pooled":
        raise InvalidRequest(f"layer: {layer!r} cannot be tuned; use 'pooled', or train the head alone")
    require_folder("output", output)
    cache = require_folder("cache", cache or default_folder())
    images = load_dataset(dataset, data=data or cache / "datasets", seed=seed, limit=limit)
    if objective == "classes":
        layer, bits = "pooled", 0
    recipe = Recipe(
        model, weights, layer, objective, bits, tunes, schedule_for(tunes, epochs, batch, learning_rate, seed)
    )
    network = FeatureModel(
        model, weights, layer, device, "float32" if tunes else "auto", decode_threads=os.cpu_count() or 1
    )
    with PhaseBar(as_json) as bar:

        def show(phase: str, done: int, total: int, loss: float) -> None:
            bar(phase, done, total, "" if math.isnan(loss) else f"loss {loss:.4f}")

        files = train(images, recipe, network, output, cache, show)
    settings = {"hash.npz": "encoder.hash", "weights.pth": "encoder.weights"}
    if as_json:
        print_json({settings[path.name]: str(path) for path in files})
        return
    for path in files:
        print(f"{path}: set {settings[path.name]} to it")
