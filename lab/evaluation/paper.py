"""Owns the figures that the paper publishes, for comparison with ours: mAP@5, in per cent. The paper is Nam, Khoa
and Viet, "Image Retrieval Based on ConvNets and the Hashing Algorithm", Sci. Tech. Dev. J. 2023,
26(4):3048-3059."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    model: str
    method: str
    bits: int
    map5: float


# For each data set, the paper's best result with raw features, and its result with 2,048-bit LSH on ResNet50.
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


def figures_for(dataset: str, k: int) -> tuple[Figure, ...]:
    """The paper's figures for one of its data sets. Its figures are mAP@5, so there are none for another k."""
    return FIGURES.get(dataset, ()) if k == 5 else ()
