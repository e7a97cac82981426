"""Codes learned from labels: targets, heads, resumed runs, and `lookalike train`."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lab.datasets
from encoder.features import FeatureModel
from encoder.hashing import Features, LinearHash, from_bytes, read_hash
from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from lab.datasets import LabelledImages, load_dataset
from lab.training.loop import CHECKPOINT, LOG
from lab.training.objectives import HashHead, class_loss, hash_centres, hash_loss, targets
from lab.training.recipes import Recipe, hash_of, schedule_for, train_head
from lookalike.model.errors import CannotStart, InvalidRequest
from tests.command import lookalike
from tests.conftest import wait_until

MODEL = "tf_efficientnet_lite0"
CPU = torch.device("cpu")


# ---- targets


@pytest.mark.parametrize(("classes", "bits"), [(2, 16), (10, 16), (32, 16), (10, 64), (101, 64), (128, 64)])
def test_hadamard_centres_are_at_least_half_the_bits_apart(classes: int, bits: int) -> None:
    centres = hash_centres(classes, bits, seed=3)
    assert centres.shape == (classes, bits)
    assert set(np.unique(centres)) == {-1, 1}
    assert min((a != b).sum() for a, b in itertools.combinations(centres, 2)) >= bits / 2


@pytest.mark.parametrize(("classes", "bits"), [(10, 24), (40, 200), (33, 16), (100, 40)])
def test_centres_are_random_corners_without_a_hadamard_matrix(classes: int, bits: int) -> None:
    centres = hash_centres(classes, bits, seed=3)
    assert centres.shape == (classes, bits)
    assert centres.dtype == np.float32
    assert set(np.unique(centres)) == {-1, 1}
    apart = np.mean([(a != b).sum() for a, b in itertools.combinations(centres, 2)])
    assert abs(apart - bits / 2) < bits / 10


@pytest.mark.parametrize("bits", [64, 24])
def test_centres_depend_on_the_seed(bits: int) -> None:
    assert np.array_equal(hash_centres(9, bits, 1), hash_centres(9, bits, 1))
    assert not np.array_equal(hash_centres(9, bits, 1), hash_centres(9, bits, 2))


def test_target_of_one_class_is_its_corner() -> None:
    centres = hash_centres(7, 64, 0)
    classes = np.random.default_rng(0).integers(7, size=30)
    assert np.array_equal(targets(np.eye(7, dtype=bool)[classes], centres, 0), centres[classes])


@pytest.mark.parametrize("bits", [64, 24])
def test_target_of_several_classes_is_the_corner_nearest_to_all(bits: int) -> None:
    centres = hash_centres(7, bits, 0)
    labels = np.random.default_rng(0).random((60, 7)) < 0.4
    found = targets(labels, centres, 5)
    assert set(np.unique(found)) == {-1, 1}
    for row, corner in zip(labels, found, strict=True):
        apart = (centres[row] != corner).sum(axis=0)
        assert (2 * apart <= row.sum()).all(), "another value of this bit would be nearer"
    even = np.array([[1, 1, 0, 0, 0, 0, 0], [0] * 7], bool)
    drawn = targets(even, centres, 5)
    open_bits = centres[0] != centres[1]
    assert 0 < open_bits.sum() < bits
    assert np.array_equal(drawn[0][open_bits], drawn[1][open_bits]), "one draw for all images, by the seed"
    assert not np.array_equal(drawn[1], targets(even, centres, 6)[1])


def test_the_loss_of_the_right_corner_is_the_smallest() -> None:
    corners = torch.from_numpy(hash_centres(4, 32, 0))
    right, wrong = hash_loss(corners * 5, corners), hash_loss(-corners * 5, corners)
    assert right < hash_loss(corners * 0.5, corners) < hash_loss(corners * 0, corners) < wrong


def test_single_label_loss_is_softmax_and_multi_label_loss_sigmoid() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    single = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = -torch.log_softmax(logits, 1)[[0, 1], [0, 1]].mean()
    assert torch.isclose(class_loss(False)(logits, single), expected)
    # In a multi-label set, a batch may happen to have one label per image.
    assert not torch.isclose(class_loss(True)(logits, single), expected)
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = -torch.where(several > 0, torch.sigmoid(logits).log(), torch.sigmoid(-logits).log()).mean()
    assert torch.isclose(class_loss(True)(logits, several), expected)


# ---- heads


def separable(classes: int = 6, each: int = 12, width: int = 48) -> tuple[Features, np.ndarray[Any, Any]]:
    """Features about one centre per class, with centres that are far apart compared with the scatter; bool
    labels."""
    random = np.random.default_rng(0)
    of = np.arange(classes * each) % classes
    sample = 3 * random.standard_normal((classes, width))[of] + 0.3 * random.standard_normal((len(of), width)) + 5
    return sample.astype(np.float32), np.eye(classes, dtype=bool)[of]


def recipe(
    epochs: int = 20, bits: int = 32, learning_rate: float = 0.01, seed: int = 0, batch: int = 16
) -> Recipe:
    return Recipe(
        MODEL, None, "pooled", "hash", bits, False, schedule_for(False, epochs, batch, learning_rate, seed)
    )


def learn(
    folder: Path, of: Recipe, digest: str = "images", progress: Callable[..., None] = lambda *_: None
) -> LinearHash:
    return hash_of(train_head(*separable(), of, {"images": digest}, CPU, folder, progress), "features")


def test_a_head_gives_each_class_one_code_and_no_two_the_same(tmp_path: Path) -> None:
    sample, labels = separable()
    found = learn(tmp_path, recipe(epochs=40))
    codes = np.unpackbits(found.codes(sample), axis=1)
    assert np.array_equal(np.where(codes, 1, -1), targets(labels, hash_centres(6, 32, 0), 0))
    assert len(np.unique(codes, axis=0)) == 6
    # The centres are the same, and the rows after the first 72 are new.
    fresh, its_labels = (part[72:] for part in separable(each=30))
    codes = np.unpackbits(found.codes(fresh), axis=1)
    assert np.array_equal(np.where(codes, 1, -1), targets(its_labels, hash_centres(6, 32, 0), 0))


def test_a_head_and_its_hash_give_the_same_projections() -> None:
    sample, _ = separable()
    head = HashHead(sample, 32)
    found = hash_of(head, "made by")
    with torch.no_grad():
        logits = head(torch.from_numpy(sample)).numpy()
    assert np.allclose(found.projections(sample), logits, atol=1e-4)
    assert (found.method, found.features, found.is_normalised, found.bits) == ("csq", "made by", True, 32)
    assert from_bytes(found.to_bytes(), "it").digest == found.digest


# ---- interrupted runs


class Stopped(Exception):
    pass


def stop_after(epochs: int) -> Callable[..., None]:
    def progress(_phase: str, done: int, _total: int, _loss: float) -> None:
        if done == epochs:
            raise Stopped

    return progress


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", recipe(20))
    for at in (7, 13):
        with pytest.raises(Stopped):
            learn(tmp_path / "parts", recipe(20), progress=stop_after(at))
    done: list[int] = []
    parts = learn(tmp_path / "parts", recipe(20), progress=lambda _phase, epoch, *_: done.append(epoch))
    assert done == list(range(13, 21)), "it resumes"
    assert np.array_equal(parts.planes, whole.planes)
    assert np.array_equal(parts.offset, whole.offset)
    logs = [(tmp_path / name / LOG).read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["epoch"] for line in logs[0].splitlines()] == list(range(1, 21))
    assert json.loads(logs[0].splitlines()[-1])["loss"] < json.loads(logs[0].splitlines()[0])["loss"] / 10


def test_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = learn(tmp_path, recipe(5))
    saved = (tmp_path / CHECKPOINT).read_bytes()
    done: list[int] = []
    assert learn(tmp_path, recipe(5), progress=lambda _phase, epoch, *_: done.append(epoch)).digest == first.digest
    assert done == [5]
    assert (tmp_path / CHECKPOINT).read_bytes() == saved


def test_partial_checkpoint_is_ignored(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", recipe(6))
    with pytest.raises(Stopped):
        learn(tmp_path / "parts", recipe(6), progress=stop_after(3))
    (tmp_path / "parts" / CHECKPOINT).with_suffix(".new").write_bytes(b"half a checkpoint")
    assert learn(tmp_path / "parts", recipe(6)).digest == whole.digest


@pytest.mark.parametrize(
    ("other", "digest", "named"),
    [
        (recipe(3, bits=64), "images", "bits"),
        (recipe(4), "images", "epochs"),
        (recipe(3, learning_rate=0.02, seed=1), "images", "learning_rate, seed"),
        (dataclasses.replace(recipe(3), model="resnet18", layer="map"), "images", "layer, model"),
        (recipe(3), "others", "images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_checkpoint_of_another_recipe_is_refused_with_the_differences(
    tmp_path: Path, other: Recipe, digest: str, named: str
) -> None:
    learn(tmp_path, recipe(3))
    saved = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(CannotStart) as refused:
        learn(tmp_path, other, digest)
    assert refused.value.message == (
        f"output: {tmp_path / CHECKPOINT} is of another run (it differs in {named});"
        " use another folder, or remove that file"
    )
    assert (tmp_path / CHECKPOINT).read_bytes() == saved


def test_damaged_checkpoint_is_refused_with_a_working_remedy(tmp_path: Path) -> None:
    whole = learn(tmp_path, recipe(3))
    path = tmp_path / CHECKPOINT
    saved = path.read_bytes()
    foreign = io.BytesIO()
    torch.save([1, 2], foreign)
    for damaged in (saved[:-1], saved[: len(saved) // 2], saved[:10], b"", b"no checkpoint", foreign.getvalue()):
        path.write_bytes(damaged)
        with pytest.raises(CannotStart, match=r"checkpoint.pt is damaged \(\w+\); remove it to restart$"):
            learn(tmp_path, recipe(3))
    path.unlink()
    assert learn(tmp_path, recipe(3)).digest == whole.digest


def test_diverging_learning_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"learning_rate: 1000000\.0 diverged in epoch \d+ .*; use a lower"):
        learn(tmp_path, recipe(60, learning_rate=1e6))


@pytest.mark.parametrize("rate", [-1.0, 0.0, float("nan"), float("inf"), 1e38])
def test_invalid_learning_rate_is_refused(tmp_path: Path, rate: float) -> None:
    with pytest.raises(InvalidRequest, match=r"learning_rate: invalid value .*; use one above 0"):
        learn(tmp_path, recipe(2, learning_rate=rate))


# ---- the command


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_killed_training_resumes_and_its_hash_encodes(photographs: Path, cache: Path, tmp_path: Path) -> None:
    def arguments(output: str) -> list[object]:
        return [
            "train", photographs, "--output", tmp_path / output, "--cache", cache, "--data", cache,
            "--epochs", 120, "--json",
        ]  # fmt: skip

    code, out, err = lookalike(*arguments("whole"))
    assert (code, json.loads(out), err) == (0, {"encoder.hash": str(tmp_path / "whole" / "hash.npz")}, "")
    parts = tmp_path / "parts"
    command = [sys.executable, "-m", "lookalike", *map(str, arguments("parts"))]
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: (parts / LOG).exists() or training.poll() is not None, 60)
    finally:
        training.kill()
        _, errors = training.communicate()
    assert training.returncode == -signal.SIGKILL, errors
    assert not (parts / "hash.npz").exists(), "it was killed after it had ended"
    # A run from the start would overwrite this line.
    lines = (parts / LOG).read_text().splitlines()
    (parts / LOG).write_text("\n".join(['{"epoch": 1, "loss": "of the killed run"}', *lines[1:]]) + "\n")
    code, _, err = lookalike(*arguments("parts"))
    assert (code, err) == (0, "")
    assert "of the killed run" in (parts / LOG).read_text()
    found, whole = read_hash(parts / "hash.npz"), read_hash(tmp_path / "whole" / "hash.npz")
    assert np.allclose(found.planes, whole.planes, rtol=1e-4, atol=1e-5)

    spec = EncoderSpec(MODEL, 64, 0, hash_file=(parts / "hash.npz").read_bytes())
    model = EncoderModel(spec)
    assert model.hash.features == str(model.network)
    assert (model.space.hash_method, model.space.hash_digest) == ("csq", found.digest)
    images = sorted(photographs.rglob("*.jpg"))
    codes = np.stack(
        [np.frombuffer(one.code, np.uint8) for one in model.encode([path.read_bytes() for path in images])]
    )
    distances = np.bitwise_count(codes[:, None] ^ codes[None]).sum(-1).reshape(10, 4, 10, 4)
    within = np.einsum("iaib->iab", distances).mean()
    assert within < 4 < 28 < distances.mean(), "the views of a photograph have nearly one code"


def small(photographs: Path, cache: Path) -> LabelledImages:
    """The set that the commands below train on."""
    return load_dataset(str(photographs), data=cache, limit=10)


def test_tuned_networks_hash_requires_its_weights(photographs: Path, cache: Path, tmp_path: Path) -> None:
    code, out, err = lookalike(
        "train", photographs, "--output", tmp_path, "--cache", cache, "--data", cache, "--tune-network",
        "--bits", 32, "--epochs", 1, "--limit", 10, "--batch", 4, "--learning-rate", 0.001,
    )  # fmt: skip
    assert code == 0, err
    weights, hash_file = tmp_path / "weights.pth", tmp_path / "hash.npz"
    assert out == f"{hash_file}: set encoder.hash to it\n{weights}: set encoder.weights to it\n"
    tuned, original = FeatureModel(MODEL, weights), FeatureModel(MODEL)
    assert (tuned.width, original.width) == (1280, 1280)
    assert tuned.backbone.weights_digest != original.backbone.weights_digest
    assert read_hash(hash_file).features == str(tuned)
    model = EncoderModel(EncoderSpec(MODEL, 32, 0, weights, hash_file=hash_file.read_bytes()))
    image = next(photographs.rglob("*.jpg")).read_bytes()
    assert len(model.encode([image])[0].code) == 4
    with pytest.raises(
        CannotStart, match=r"encoder.hash: was fitted to other features \(timm:tf_efficientnet_lite0"
    ):
        EncoderModel(EncoderSpec(MODEL, 32, 0, hash_file=hash_file.read_bytes()))
    with pytest.raises(CannotStart, match=r"lacks 2 of the model's tensors, such as 'classifier.weight'"):
        FeatureModel(MODEL, weights, "classifier")


def test_tuning_to_classes_reads_no_queries(
    photographs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = small(photographs, cache)
    seen: set[int] = set()

    def read(row: int) -> bytes:
        seen.add(row)
        return images.read(row)

    monkeypatch.setattr(lab.datasets, "load_dataset", lambda *_, **__: dataclasses.replace(images, read=read))
    code, out, err = lookalike(
        "train", photographs, "--output", tmp_path, "--cache", cache, "--objective", "classes", "--epochs", 1,
        "--batch", 4, "--limit", 10,
    )  # fmt: skip
    assert code == 0, err
    assert out == f"{tmp_path / 'weights.pth'}: set encoder.weights to it\n"
    assert seen == set(images.indexed.tolist())
    assert len(images.queries) > 0
    assert not (tmp_path / "hash.npz").exists()
    widths = {
        layer: FeatureModel(MODEL, tmp_path / "weights.pth", layer).width for layer in ("pooled", "classifier")
    }
    assert widths == {"pooled": 1280, "classifier": len(images.classes)}
    assert len(images.classes) < 1000


def test_invalid_training_option_error_is_one_line(photographs: Path, cache: Path, tmp_path: Path) -> None:
    def failure(*arguments: object) -> str:
        code, out, err = lookalike(
            "train", *arguments, "--output", tmp_path / "out", "--cache", cache, "--data", cache, "--json"
        )
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    assert "bits: 33 is not a code width" in failure(photographs, "--bits", 33)
    assert "nowhere is neither the name of a set nor a path" in failure("nowhere")
    assert "'reznet18' is unknown" in failure(photographs, "--model", "reznet18")
    assert "layer: 'classifier' cannot be tuned; use 'pooled'" in failure(
        photographs, "--layer", "classifier", "--tune-network", "--epochs", 1, "--limit", 10
    )
    assert "learning_rate: invalid value 1e+20" in failure(photographs, "--learning-rate", 1e20)
