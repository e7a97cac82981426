"""Owns the kinds of training, and the files that they write.

There are three: a hash head on fixed features (seconds); a hash head with the network tuned along with it; or the
network tuned to classify, as the paper does before it extracts features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from encoder.backbones import POOLED, for_classes, load_backbone
from encoder.features import FeatureModel, read_or_nothing, stacked
from encoder.hashing import Features, LinearHash, check_size, fitted
from encoder.images import Pixels
from lab.datasets import LabelledImages
from lab.feature_cache import features_of, require_memory
from lab.training.loop import Load, Rows, Schedule, run
from lab.training.objectives import HashHead, class_loss, hash_centres, hash_loss, targets
from lookalike.files.atomic import atomic_write, write_bytes
from lookalike.model.errors import InvalidRequest

CSQ = "csq"
HASH_FILE, WEIGHTS_FILE, HEAD_FOLDER = "hash.npz", "weights.pth", "head"

# Copies of the features in memory at once: raw, of unit length, centred, and the head's own.
_COPIES = 4

Progress = Callable[[str, int, int, float], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """What to train. objective: "hash" learns codes of `bits` bits; "classes" tunes the network to the labels, and
    a hash is fitted to its features later. tune_network: train the network too, not only the head."""

    model: str
    weights: Path | None
    layer: str
    objective: Literal["hash", "classes"]
    bits: int
    tune_network: bool
    schedule: Schedule

    @property
    def document(self) -> dict[str, str | int | float | bool]:
        """Everything that determines the result, except images and network, for the checkpoint."""
        document = {**dataclasses.asdict(self), **dataclasses.asdict(self.schedule)}
        del document["schedule"], document["weights"]
        return document


def schedule_for(
    tune_network: bool, epochs: int | None, batch: int | None, learning_rate: float | None, seed: int
) -> Schedule:
    """A schedule; arguments that are None get their defaults."""
    usual = Schedule(10, 32, 1e-4, 1e-2, seed) if tune_network else Schedule(60, 64, 1e-2, 1e-4, seed)
    return dataclasses.replace(
        usual,
        epochs=usual.epochs if epochs is None else epochs,
        batch=usual.batch if batch is None else batch,
        learning_rate=usual.learning_rate if learning_rate is None else learning_rate,
    )


def train(
    images: LabelledImages, recipe: Recipe, network: FeatureModel, output: Path, cache: Path, progress: Progress
) -> list[Path]:
    """Trains on a set's indexed images, never on its queries.

    Args:
        images: The set.
        recipe: What to train.
        network: The recipe's network.
        output: The folder of the results and checkpoints.
        cache: The folder of cached features.
        progress: Called with a phase, done, total, and the last loss or NaN.

    Returns:
        The files written: a hash, the network's weights, or both.

    Raises:
        InvalidRequest: If the set or the learning rate is unsuitable.
        CannotStart: If a checkpoint is damaged, or of another recipe.
    """
    if recipe.objective == "classes":
        return [_tune_to_classes(images, recipe, network, output, progress)]
    check_size(recipe.bits, network.width)
    require_memory(len(images.indexed) * network.width * 4 * _COPIES, images.name, network.layer)
    with_features = features_of(images, network, cache, _counting(progress, "encoding", len(images.keys)))
    rows = _readable(images, with_features)
    sample = np.array(with_features[rows], np.float32)
    labels = images.labels[rows]
    head_folder = output / HEAD_FOLDER if recipe.tune_network else output
    head_recipe = (
        dataclasses.replace(
            recipe, tune_network=False, schedule=schedule_for(False, None, None, None, recipe.schedule.seed)
        )
        if recipe.tune_network
        else recipe
    )
    made_of = {"images": images.lesson, "network": _identity(network)}
    head = train_head(sample, labels, head_recipe, made_of, network.device, head_folder, progress)
    path = output / HASH_FILE
    if not recipe.tune_network:
        write_bytes(path, hash_of(head, str(network)).to_bytes())
        return [path]
    weights = _tune_with_head(images, rows, labels, recipe, network, head, output, progress)
    tuned = FeatureModel(recipe.model, weights, recipe.layer, network.device.type)
    write_bytes(path, hash_of(head, str(tuned)).to_bytes())
    return [path, weights]


def train_head(
    sample: Features,
    labels: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
    recipe: Recipe,
    made_of: Mapping[str, str],
    device: torch.device,
    folder: Path | None,
    progress: Progress,
) -> HashHead:
    """Trains a hash head.

    Args:
        sample: Features, float32 (n, width).
        labels: bool (n, classes).
        recipe: What to train.
        made_of: What a checkpoint must match to be resumed, in addition to the recipe.
        device: Where to train.
        folder: The folder of checkpoints; None keeps none.
        progress: See `train`.
    """
    torch.manual_seed(recipe.schedule.seed)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    head: HashHead = HashHead(sample, recipe.bits).to(device)
    features = torch.from_numpy(sample).to(device)
    run(
        head, lambda rows, random: features[rows], _corners(labels, recipe, device), hash_loss, recipe.schedule,
        folder, {**recipe.document, **made_of},
        lambda done, loss: progress("learning codes", done, recipe.schedule.epochs, loss),
    )  # fmt: skip
    return head


def hash_of(head: HashHead, features: str) -> LinearHash:
    """Converts a head to a hash. features: text that identifies the network that computes the features."""
    planes, offset = head.planes()
    return fitted(CSQ, planes, offset, True, features)


def _tune_with_head(
    images: LabelledImages,
    rows: Rows,
    labels: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
    recipe: Recipe,
    network: FeatureModel,
    head: HashHead,
    output: Path,
    progress: Progress,
) -> Path:
    assert recipe.layer == POOLED, "only the pooled layer can be tuned"
    module = load_backbone(recipe.model, recipe.weights).module.to(network.device)
    _run_network(
        nn.Sequential(module, head), images, rows, _corners(labels, recipe, network.device), hash_loss,
        recipe, network, output, progress,
    )  # fmt: skip
    # Pooling and flattening modules that were added have no weights; loading adds them again.
    is_wrapped = isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Flatten)
    return _save_weights(module[0] if is_wrapped else module, output)


def _tune_to_classes(
    images: LabelledImages, recipe: Recipe, network: FeatureModel, output: Path, progress: Progress
) -> Path:
    torch.manual_seed(recipe.schedule.seed)
    module = for_classes(recipe.model, recipe.weights, len(images.classes)).to(network.device)
    rows = (
        images.indexed[images.labels[images.indexed].any(axis=1)] if not images.is_multi_label else images.indexed
    )
    wanted = torch.from_numpy(images.labels[rows].astype(np.float32)).to(network.device)
    loss = class_loss(images.is_multi_label)
    _run_network(module, images, rows, wanted, loss, recipe, network, output, progress)
    return _save_weights(module, output)


def _run_network(
    module: nn.Module,
    images: LabelledImages,
    rows: Rows,
    wanted: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    recipe: Recipe,
    network: FeatureModel,
    output: Path,
    progress: Progress,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    # Normalisation keeps its statistics: small batches would make them worse.
    module.eval()
    run(
        module, _pixels_of(images, rows, network), wanted, loss, recipe.schedule, output,
        {**recipe.document, "images": images.lesson, "network": _identity(network)},
        lambda done, value: progress("tuning the network", done, recipe.schedule.epochs, value),
    )  # fmt: skip


def _pixels_of(images: LabelledImages, rows: Rows, network: FeatureModel) -> Load:
    """Loads images as the network's input, each mirrored with probability 1/2. Unreadable images are grey."""
    crop = network.preprocessing.crop
    grey = np.full((crop, crop, 3), 128, np.uint8)

    def load(chosen: Rows, random: np.random.RandomState) -> torch.Tensor:
        files = [functools.partial(images.read, int(rows[at])) for at in chosen]
        decoded = network.decode([read_or_nothing(file) for file in files])
        if not any(isinstance(item, np.ndarray) for item in decoded):
            raise InvalidRequest(
                f"dataset: a whole batch of {images.name} cannot be read; repair or remove its files"
            )
        pixels: list[Pixels] = [item if isinstance(item, np.ndarray) else grey for item in decoded]
        pixels = [item[:, ::-1] if random.random_sample() < 0.5 else item for item in pixels]
        batch = stacked(pixels)
        assert batch is not None
        return network.inputs(batch)

    return load


def _corners(
    labels: np.ndarray[tuple[int, int], np.dtype[np.bool_]], recipe: Recipe, device: torch.device
) -> torch.Tensor:
    centres = hash_centres(labels.shape[1], recipe.bits, recipe.schedule.seed)
    return torch.from_numpy(targets(labels, centres, recipe.schedule.seed)).to(device)


def _readable(images: LabelledImages, features: np.ndarray[tuple[int, int], np.dtype[np.floating]]) -> Rows:
    """The indexed images that have features and a label."""
    usable = ~np.isnan(features[:, 0]) & images.labels.any(axis=1)
    rows: Rows = images.indexed[usable[images.indexed]]
    if not len(rows):
        raise InvalidRequest(f"dataset: no image of {images.name} has a label and can be read")
    return rows


def _identity(network: FeatureModel) -> str:
    return f"{network} {network.dtype} {network.device.type}"


def _save_weights(module: nn.Module, output: Path) -> Path:
    path = output / WEIGHTS_FILE
    with atomic_write(path) as file:
        torch.save({name: tensor.cpu() for name, tensor in module.state_dict().items()}, file)
    return path


def _counting(progress: Progress, phase: str, total: int) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(phase, done, total, float("nan"))

    return count
