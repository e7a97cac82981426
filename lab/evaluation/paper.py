"""Owns the paper's published figures, for comparison with ours: Nam, Khoa and Viet, "Image Retrieval Based on
ConvNets and the Hashing Algorithm", Sci. Tech. Dev. J. 2023, 26(4):3048-3059. mAP@5, in per cent."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    model: str
    method: str
    bits: int
    map5: float


# The best raw result of each set, and 2,048-bit LSH on ResNet50.
FIGURES: dict[str, tuple[Figure, ...]] = {
    "caltech101": (Figure("resnet18", "raw", 0, 74.3), Figure("resnet50", "lsh", 2048, 25.0)),
    "cifar10": (Figure("resnet18", "raw", 0, 53.1), Figure("resnet50", "lsh", 2048, 8.2)),
    "flowers102": (Figure("resnet18", "raw", 0, 58.8), Figure("resnet50", "lsh", 2048, 3.4)),
}
MODELS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "vgg16",
    "vgg19",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
)


def figures_for(dataset: str) -> tuple[Figure, ...]:
    """The paper's figures for a set, or for the set that it is a part of, by the beginning of its name."""
    return next((figures for name, figures in FIGURES.items() if dataset.startswith(name)), ())
