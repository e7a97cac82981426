"""Fused networks compute the same features as plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from encoder.fusion import _FusedConvolution, fuse


def with_trained_like_norms(module: nn.Module) -> nn.Module:
    """Normalisations with trained-like values: fresh ones change nothing, and would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, 0, 0.1, generator=generator)
    return module.eval()


@pytest.mark.parametrize(
    ("make", "convolutions"),
    [
        (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0), 49),
        (lambda: timm.create_model("efficientnet_b0", num_classes=0), 81),
        (lambda: torchvision.models.resnet18(), 20),
        (lambda: torchvision.models.mobilenet_v3_small(), 52),
        (lambda: make_layers(cfgs["D"], batch_norm=False).eval(), 13),
    ],
)
def test_a_fused_network_gives_the_same_features(make: Callable[[], nn.Module], convolutions: int) -> None:
    torch.manual_seed(0)
    plain = with_trained_like_norms(make())
    fused = fuse(plain, 64)
    parts = list(fused.modules())
    assert sum(isinstance(part, _FusedConvolution) for part in parts) == convolutions
    assert not any(isinstance(part, nn.BatchNorm2d) for part in parts)
    with torch.inference_mode():
        images = torch.randn(3, 3, 64, 64)
        wanted, found = plain(images), fused(images)
    assert (wanted - found).abs().max() <= 1e-4 * wanted.abs().max()


class _Branching(nn.Module):
    """Branches on its input's values, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.convolution(images).mean((2, 3))
        return features if features.sum() > 0 else -features


def test_untraceable_network_is_returned_unchanged() -> None:
    network = _Branching().eval()
    assert fuse(network, 32) is network


def test_result_with_several_users_is_not_fused_away() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)
            self.activation = nn.ReLU()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            inner = self.convolution(images)
            return (self.activation(inner) + inner).mean((2, 3))

    network = Residual().eval()
    with torch.inference_mode():
        images = torch.randn(2, 3, 16, 16)
        assert torch.allclose(fuse(network, 16)(images), network(images), atol=1e-5)
