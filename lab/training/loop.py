"""Owns the training loop: runs epochs of batches, writes a checkpoint after each epoch, and resumes from a
checkpoint.

The random numbers of an epoch depend only on the seed and the epoch's number, so a resumed run ends with the same
result as an uninterrupted run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lookalike.files.atomic import atomic_write
from lookalike.model.errors import CannotStart, InvalidRequest

_MAX_LEARNING_RATE = 1e6

CHECKPOINT, LOG = "checkpoint.pt", "training.jsonl"

Rows = npt.NDArray[np.int64]
# (rows, the epoch's random numbers) -> the module's input.
Load = Callable[[Rows, np.random.RandomState], torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int


def run(
    module: nn.Module,
    load: Load,
    wanted: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    schedule: Schedule,
    folder: Path | None,
    recipe: Mapping[str, Any],
    progress: Callable[[int, float], None],
) -> None:
    """Trains a module in place, on its device.

    Args:
        module: The module.
        load: Loads the inputs of some rows.
        wanted: The targets that the loss compares the outputs with, (n, ...).
        loss: (outputs, wanted) -> loss.
        schedule: Epochs, batches and rates.
        folder: The folder for the checkpoint and the log; None writes neither. If it contains a checkpoint with
            the same recipe, training resumes from there.
        recipe: Everything that determines the result; stored in the checkpoint.
        progress: Called with the number of finished epochs, and the mean loss of the last one.

    Raises:
        CannotStart: If the checkpoint is damaged, or has another recipe.
        InvalidRequest: If the learning rate is invalid, or too high to converge.
    """
    if not 0 < schedule.learning_rate <= _MAX_LEARNING_RATE:
        raise InvalidRequest(
            f"learning_rate: invalid value {schedule.learning_rate}; use one above 0, at most {_MAX_LEARNING_RATE}"
        )
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, schedule.learning_rate, weight_decay=schedule.weight_decay)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.epochs)
    states = {"module": module, "optimizer": optimizer, "decay": decay}
    first = 0 if folder is None else _resume(folder / CHECKPOINT, states, recipe)
    if folder is not None:
        _cut_log(folder / LOG, first)
    progress(first, float("nan"))
    for epoch in range(first, schedule.epochs):
        random = np.random.RandomState((schedule.seed * 1_000_003 + epoch) % 2**32)
        order = random.permutation(len(wanted))
        total = 0.0
        for start in range(0, len(order), schedule.batch):
            rows = order[start : start + schedule.batch]
            value = loss(module(load(rows, random)), wanted[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += float(value.detach()) * len(rows)
        decay.step()
        mean = total / len(order)
        if not (np.isfinite(mean) and all(bool(part.isfinite().all()) for part in parameters)):
            raise InvalidRequest(
                f"learning_rate: {schedule.learning_rate} diverged in epoch {epoch + 1} (loss {mean});"
                " use a lower rate, and another output folder"
            )
        if folder is not None:
            _save(folder / CHECKPOINT, states, recipe, epoch + 1)
            with (folder / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"epoch": epoch + 1, "loss": mean}) + "\n")
        progress(epoch + 1, mean)


def _save(path: Path, states: Mapping[str, Any], recipe: Mapping[str, Any], epoch: int) -> None:
    content = {name: part.state_dict() for name, part in states.items()}
    with atomic_write(path) as file:
        torch.save({"recipe": dict(recipe), "epoch": epoch, **content}, file)


def _resume(path: Path, states: Mapping[str, Any], recipe: Mapping[str, Any]) -> int:
    """Loads the checkpoint, if there is one. Returns the number of finished epochs."""
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        other = saved["recipe"]
    except Exception as error:  # unpickling a damaged file fails in many ways
        raise CannotStart(f"output: {path} is damaged ({type(error).__name__}); remove it to restart") from None
    changed = sorted(name for name in {*recipe, *other} if recipe.get(name) != other.get(name))
    if changed:
        raise CannotStart(
            f"output: {path} is of another run (it differs in {', '.join(changed)});"
            " use another folder, or remove that file"
        )
    for name, part in states.items():
        part.load_state_dict(saved[name])
    return int(saved["epoch"])


def _cut_log(path: Path, epochs: int) -> None:
    """Removes the lines of epochs that are not in the checkpoint."""
    with contextlib.suppress(FileNotFoundError):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epochs]
        path.write_text("".join(kept), encoding="utf-8")
