"""Owns fusion of convolutional networks on CPUs: convolution, batch normalisation and activation become one oneDNN
call, with the normalisation folded into the weights.

EfficientNet-Lite0 in bfloat16, with one thread and batches of 32, encodes 2.6 times as many images per second as
the same network run layer by layer (`python -m benchmarks fusion`). A network that cannot be
traced, or whose features would change, is returned unchanged."""

from __future__ import annotations

import logging
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import fx, nn

log = logging.getLogger("encoder.fusion")
_TOLERANCE = 1e-3
# oneDNN's names for activations, each with its scalars.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}


def fuse(module: nn.Module, crop: int) -> nn.Module:
    """Fuses a network.

    Args:
        module: A float32 module on the CPU, in evaluation mode.
        crop: The side of the network's input in pixels. A random input of this size checks that the fused network
            computes the same features.

    Returns:
        The fused network, or `module` itself if it cannot be fused.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return module
    with torch.inference_mode():
        probe = torch.randn(2, 3, crop, crop, generator=torch.Generator().manual_seed(0))
        try:
            fused = _fuse_all(module)
            wanted, found = module(probe), fused(probe)
        except Exception as error:  # networks with data-dependent steps fail in many ways
            log.info("not fused: %s", error)
            return module
        if (wanted - found).abs().max() > _TOLERANCE * wanted.abs().max():
            log.warning("not fused: the features would differ")
            return module
    return fused


class _FusedConvolution(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """A convolution with a normalisation's scale and shift folded in, and an activation after it."""

    def __init__(
        self, convolution: nn.Conv2d, norm: nn.Module | None, activation: tuple[str, list[float]]
    ) -> None:
        super().__init__()
        weight, bias = convolution.weight.detach(), convolution.bias
        shift = torch.zeros(len(weight)) if bias is None else bias.detach()
        if norm is not None:
            scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * scale.view(-1, 1, 1, 1)
            shift = norm.bias.detach() + (shift - norm.running_mean) * scale
        self.register_buffer("weight", weight.to(memory_format=torch.channels_last))
        self.register_buffer("shift", shift)
        self._same_padding = isinstance(convolution, Conv2dSame)
        self._kernel = convolution.kernel_size
        self._padding = [0, 0] if self._same_padding else list(convolution.padding)
        self._stride = list(convolution.stride)
        self._dilation = list(convolution.dilation)
        self._groups = convolution.groups
        self._activation, self._scalars = activation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self._same_padding:
            images = pad_same(images, self._kernel, self._stride, self._dilation)
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.shift, self._padding, self._stride, self._dilation, self._groups,
            self._activation, self._scalars, "",
        )  # fmt: skip
        return result


class _Tracer(fx.Tracer):  # type: ignore[misc]
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | BatchNormAct2d) or super().is_leaf_module(m, module_qualified_name)


def _fuse_all(module: nn.Module) -> fx.GraphModule:
    graph = _Tracer().trace(module)
    result = fx.GraphModule(module, graph)
    modules = dict(result.named_modules())
    for number, node in enumerate(list(graph.nodes)):
        convolution = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(convolution, nn.Conv2d) and not isinstance(convolution.padding, str):
            _fuse_one(result, modules, node, convolution, f"fused_{number}")
    graph.eliminate_dead_code()
    result.recompile()
    result.delete_all_unused_submodules()
    return result.eval()


def _fuse_one(
    result: fx.GraphModule, modules: dict[str, nn.Module], node: fx.Node, convolution: nn.Conv2d, name: str
) -> None:
    """Replaces a convolution by one call, together with its normalisation and activation if nothing else uses the
    intermediate values."""
    last, norm, activation = node, None, ("none", list[float]())
    following = _only_user(last, modules)
    if isinstance(following, nn.BatchNorm2d):
        if isinstance(following, BatchNormAct2d) and type(following.act) not in _ACTIVATIONS:
            return
        last, norm = next(iter(last.users)), following
        inner = following.act if isinstance(following, BatchNormAct2d) else nn.Identity()
        activation = _ACTIVATIONS[type(inner)]
        following = _only_user(last, modules)
    if activation[0] == "none" and type(following) in _ACTIVATIONS:
        last, activation = next(iter(last.users)), _ACTIVATIONS[type(following)]
    result.add_module(name, _FusedConvolution(convolution, norm, activation))
    with result.graph.inserting_after(last):
        fused = result.graph.call_module(name, (node.args[0],))
    last.replace_all_uses_with(fused, delete_user_cb=lambda user: user is not fused)


def _only_user(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """The module that uses a node's result, if it is the only user."""
    users = list(node.users)
    return modules.get(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
