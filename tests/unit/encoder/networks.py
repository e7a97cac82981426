"""Networks that a test run loads once."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from torch import nn

from encoder import backbones, fusion
from encoder.backbones import Backbone

_pretrained = functools.cache(backbones.load_backbone)
_fused: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def load_backbone(name: str, weights: Path | None = None, layer: str = backbones.POOLED) -> Backbone:
    # A weights file may change between two tests.
    return _pretrained(name, None, layer) if weights is None else backbones.load_backbone(name, weights, layer)


def fuse(module: nn.Module, crop: int) -> nn.Module:
    """A copy for each feature model, because it converts its module in place."""
    if module not in _fused:
        _fused[module] = copy.deepcopy(fusion.fuse(module, crop))
    return copy.deepcopy(_fused[module])


@contextlib.contextmanager
def loaded_once() -> Iterator[None]:
    """Lets feature models share the loading and fusion of pretrained networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("encoder.features.load_backbone", load_backbone)
        patch.setattr("encoder.preflight.load_backbone", load_backbone)
        patch.setattr("encoder.features.fuse", fuse)
        yield
