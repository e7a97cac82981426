"""Owns the checks before Ray starts: an encoder that cannot load is reported at once, not after half a
minute."""

from __future__ import annotations

from encoder.backbones import load_backbone
from encoder.features import find_device
from encoder.model import code_space, hash_of
from encoder.spec import EncoderSpec
from lookalike.model.codespace import CodeSpace


def space_of(spec: EncoderSpec) -> CodeSpace:
    """Loads an encoder's network and hash in this process, and drops them again.

    Args:
        spec: The encoder. It must run on this machine, not on a remote Ray cluster.

    Returns:
        The code space of its codes.

    Raises:
        CannotStart: If the device is missing, or the model, its weights or its hash cannot be loaded.
    """
    find_device(spec.device)
    backbone = load_backbone(spec.model, spec.weights, spec.layer)
    return code_space(backbone, hash_of(spec, backbone))
