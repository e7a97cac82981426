"""Backbones, hashing and the encoder as one, on real photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.backbones import load_backbone
from encoder.hashing import drawn
from encoder.model import EncoderModel
from encoder.preflight import space_of
from encoder.spec import EncoderSpec
from lookalike.model.errors import CannotStart

MODEL = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def model() -> EncoderModel:
    return EncoderModel(EncoderSpec(MODEL, 256, 0, precision="float32"))


def files(photographs: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(photographs.rglob("*.jpg"))]


def test_codes_equal_those_of_the_numpy_reference(model: EncoderModel, photographs: Path) -> None:
    encoded = model.encode(files(photographs)[:12], include_features=True)
    features = np.stack([item.features for item in encoded])
    assert features.shape == (12, 1280)
    expected = drawn(1280, 256, 0).codes(features)
    assert [item.code for item in encoded] == [code.tobytes() for code in expected]


def test_a_code_does_not_depend_on_its_batch(photographs: Path) -> None:
    model = EncoderModel(EncoderSpec(MODEL, 256, 0))
    images = files(photographs)
    together = model.encode(images)
    assert [model.encode([image])[0].code for image in images[:8]] == [item.code for item in together[:8]]


def test_views_of_one_photograph_are_nearer_than_others(model: EncoderModel, photographs: Path) -> None:
    paths = sorted(photographs.rglob("*.jpg"))
    codes = np.stack([np.frombuffer(item.code, np.uint8) for item in model.encode(files(photographs))])
    distances = np.bitwise_count(codes[:, None] ^ codes[None]).sum(-1).astype(int)
    np.fill_diagonal(distances, 10_000)
    nearest = distances.argmin(1)
    assert all(paths[i].parent == paths[nearest[i]].parent for i in range(len(paths)))


def test_bad_file_does_not_affect_its_batch(model: EncoderModel, photographs: Path) -> None:
    good = files(photographs)[0]
    first, bad, last = model.encode([good, b"no image", good])
    assert first.code == last.code != b""
    assert bad.code == b""
    assert "not an image" in bad.error
    assert [item.error != "" for item in model.encode([b"", b"x"])] == [True, True]
    assert model.encode([]) == []


@pytest.mark.parametrize("bits", [16, 64, 128, 512, 2048, 8192])
def test_hyperplanes_are_unit_seeded_and_orthogonal_in_blocks(bits: int) -> None:
    planes = drawn(96, bits, seed=3).planes
    assert planes.shape == (bits, 96)
    block = planes[: min(bits, 96)]
    assert np.allclose(block @ block.T, np.eye(len(block)), atol=1e-5)
    assert np.array_equal(planes, drawn(96, bits, seed=3).planes)
    assert not np.allclose(planes, drawn(96, bits, seed=4).planes)


def test_more_bits_estimate_the_angle_better() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 40, 512)).astype(np.float32)
    b = a + 0.7 * b
    angle = np.arccos((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)) / np.pi

    def error(bits: int) -> float:
        planes = drawn(512, bits, 0)
        differing = np.bitwise_count(planes.codes(a) ^ planes.codes(b)).sum(1) / bits
        return float(np.abs(differing - angle).mean())

    assert error(4096) < error(256) < error(16)
    assert error(4096) < 0.01


def test_seed_and_width_each_make_another_code_space() -> None:
    specs = [EncoderSpec(MODEL, 64, 0), EncoderSpec(MODEL, 64, 1), EncoderSpec(MODEL, 128, 0)]
    assert len({space_of(spec).fingerprint for spec in specs}) == len(specs)


def test_local_weights_of_torchvision_and_timm_load_by_name(tmp_path: Path) -> None:
    import timm
    import torchvision

    torch.manual_seed(0)
    for name, make in [
        ("torchvision:resnet18", lambda: torchvision.models.resnet18()),
        ("torchvision:mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small()),
        ("timm:resnet18", lambda: timm.create_model("resnet18")),
    ]:
        path = tmp_path / "weights.pth"
        torch.save(make().state_dict(), path)
        backbone = load_backbone(name, path)
        assert backbone.name == name
        assert backbone.width == {"mobilenet_v3_small": 576}.get(name.split(":")[1], 512)
        assert len(backbone.weights_digest) == 64


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "mobilenet_v3_large", "timm:resnet18"])
def test_missing_weights_error_names_the_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    with pytest.raises(CannotStart, match=r"cannot be downloaded .* set encoder.weights to a local file"):
        load_backbone(name)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for path, words in [
        ("other.pth", "lacks .* of the model's tensors"),
        ("text.pth", "cannot be read as weights"),
        ("list.pth", "holds no state dict"),
        ("none.pth", "does not exist"),
    ]:
        with pytest.raises(CannotStart, match=words):
            load_backbone(MODEL, tmp_path / path)


def test_unknown_model_error_lists_similar_names() -> None:
    with pytest.raises(CannotStart, match="similar names: resnet50"):
        load_backbone("resnett50")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_an_error() -> None:
    with pytest.raises(CannotStart, match="no GPU is usable"):
        EncoderModel(EncoderSpec(MODEL, 64, 0, device="cuda"))
