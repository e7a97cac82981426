"""Images per second from files to features, for the encoder and for a plain torch loop with the same number of
threads; and the retrieval quality of both.

The plain loop is typical of tutorials: Pillow and torchvision's transforms, the network from timm, float32,
batches of 32, torch set to the encoder's total number of threads."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision import transforms

from encoder.backbones import OFFLINE_MODEL, load_backbone
from encoder.features import FeatureModel, ahead, stacked
from encoder.hashing import normalised
from lab.datasets import load_dataset
from lab.demo.photographs import bundled_photographs, write_views
from lab.evaluation.rankings import judge

BATCH, ROUNDS, VIEWS = 32, 3, 32
# Threads of the plain loop, and the encoder's decoding threads in addition to the one that computes.
THREADS = ((1, 0), (2, 1))

Features = npt.NDArray[np.float32]


def measure(images: Path | None, work: Path) -> Iterator[dict[str, Any]]:
    """Measures both sides in alternating rounds.

    Args:
        images: A labelled data set; by default, views of the bundled photographs.
        work: A folder for those views.
    """
    if images is None:
        images = work / "views"
        for photograph in bundled_photographs():
            list(write_views(photograph, range(VIEWS), "benchmark", images))
    data = load_dataset(str(images), data=work)
    files = [data.read(row) for row in range(len(data.keys))]
    for threads, decoders in THREADS:
        sides = {"plain": _plain_loop(threads), "encoder": _encoder(decoders)}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        features: dict[str, Features] = {}
        for _ in range(ROUNDS):
            for name, encode in sides.items():
                torch.set_num_threads(threads if name == "plain" else 1)
                encode(files[:BATCH])
                started = time.perf_counter()
                features[name] = encode(files)
                rates[name].append(len(files) / (time.perf_counter() - started))
        medians = {name: sorted(values)[ROUNDS // 2] for name, values in rates.items()}
        quality = {name: 100 * _map5(found, data) for name, found in features.items()}
        yield {
            "threads": threads,
            "images": len(files),
            "plain_images_per_second": round(medians["plain"], 1),
            "encoder_images_per_second": round(medians["encoder"], 1),
            "ratio": round(medians["encoder"] / medians["plain"], 2),
            "plain_map5": round(quality["plain"], 2),
            "encoder_map5": round(quality["encoder"], 2),
        }


def _plain_loop(threads: int) -> Callable[[Sequence[bytes]], Features]:
    torch.set_num_threads(threads)
    backbone = load_backbone(OFFLINE_MODEL)
    own = backbone.preprocessing
    prepare = transforms.Compose(
        [
            transforms.Resize(own.resize, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(own.crop),
            transforms.ToTensor(),
            transforms.Normalize(own.mean, own.std),
        ]
    )

    def encode(files: Sequence[bytes]) -> Features:
        features = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[start : start + BATCH]]
                features.append(backbone.module(torch.stack([prepare(image) for image in images])).numpy())
        return np.concatenate(features)

    return encode


def _encoder(decoders: int) -> Callable[[Sequence[bytes]], Features]:
    """Returns the encoder with this many decoding threads; with 0, one thread decodes and computes."""
    network = FeatureModel(OFFLINE_MODEL, decode_threads=decoders)

    def encode(files: Sequence[bytes]) -> Features:
        starts = range(0, len(files), BATCH)

        def load(number: int) -> list[Any]:
            return network.decode(files[starts[number] : starts[number] + BATCH])

        batches = ahead(load, len(starts)) if decoders else map(load, range(len(starts)))
        features = []
        for decoded in batches:
            pixels = stacked(decoded)
            assert pixels is not None
            assert len(pixels) == len(decoded), "an image of the benchmark cannot be read"
            features.append(network.features(pixels).numpy())
        return np.concatenate(features)

    return encode


def _map5(features: Features, data: Any) -> float:
    unit = normalised(features)
    indexed, queries = unit[data.indexed], unit[data.queries]
    quality = judge(
        lambda rows: -(queries[rows] @ indexed.T), data.labels[data.indexed], data.labels[data.queries], 5, False
    )
    return quality.map_k
