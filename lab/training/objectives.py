"""Owns the heads on features and their losses.

The hash head follows central similarity quantization (CSQ; Yuan et al., CVPR 2020): every class has a corner of
the hypercube, the corners are far apart, and the head learns to move each image to the corner of its class. A head
is linear, so it can be used as a hash."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from encoder.hashing import Features

# The weight of the term that pulls a code to its nearest corner, relative to the term for its class's corner.
_QUANTISATION = 1e-4

Labels = npt.NDArray[np.bool_]


def hash_centres(classes: int, bits: int, seed: int) -> npt.NDArray[np.float32]:
    """Returns a corner of the hypercube for every class: float32 (classes, bits) of +1 and -1.

    The corners are rows of a Hadamard matrix and their negatives, which are at least bits/2 apart. If `bits` is
    not a power of two, or there are more classes than such rows, the corners are random, about as far apart."""
    random = np.random.RandomState(seed)
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        matrix = np.ones((1, 1), np.float32)
        while len(matrix) < bits:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        corners = np.concatenate([matrix, -matrix])
        return corners[random.permutation(len(corners))[:classes]]
    return np.where(random.random_sample((classes, bits)) < 0.5, -1, 1).astype(np.float32)


def targets(labels: Labels, centres: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """The corner of each image, float32 (n, bits): that of its class; for several classes, the corner that is
    nearest to all of their corners, with random bits where they tie. labels: bool (n, classes)."""
    sums = labels.astype(np.float32) @ centres
    drawn = np.where(np.random.RandomState(seed).random_sample(centres.shape[1]) < 0.5, -1, 1)
    return np.where(sums == 0, drawn, np.sign(sums)).astype(np.float32)


class HashHead(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Computes logits of bits from features: scales them to unit length, centres and scales them by the sample's
    statistics, then applies a linear layer."""

    def __init__(self, sample: Features, bits: int) -> None:
        """sample: features as the network computes them, float32 (n, width)."""
        super().__init__()
        unit = nn.functional.normalize(torch.from_numpy(np.array(sample, np.float32)))
        self.register_buffer("mean", unit.mean(0))
        self.register_buffer("scale", (unit - unit.mean(0)).std().clamp_min(1e-6))
        self.linear = nn.Linear(unit.shape[1], bits)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize(features)
        logits: torch.Tensor = self.linear((unit - self.mean) / self.scale)
        return logits

    def planes(self) -> tuple[Features, Features]:
        """The head as planes (bits, width) and offset (bits,) for features of unit length."""
        with torch.no_grad():
            planes = self.linear.weight / self.scale
            offset = self.linear.bias - planes @ self.mean
        return planes.cpu().numpy(), offset.cpu().numpy()


def hash_loss(logits: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """CSQ's loss: cross-entropy of each bit with the corner's bit, and a term that pulls codes to corners."""
    central = nn.functional.binary_cross_entropy_with_logits(logits, (corners + 1) / 2)
    quantisation = ((logits.tanh().abs() - 1) ** 2).mean()
    loss: torch.Tensor = central + _QUANTISATION * quantisation
    return loss


def class_loss(is_multi_label: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Cross-entropy of logits with labels (n, classes), 0 and 1: with a softmax for sets with one label per image,
    with a sigmoid per class for sets with several."""
    if is_multi_label:
        return nn.functional.binary_cross_entropy_with_logits  # type: ignore[no-any-return]
    return nn.functional.cross_entropy  # type: ignore[no-any-return]
