"""Images per second of the default network on one thread, fused through oneDNN and layer by layer, both as the
encoder runs them on this processor (bfloat16 if it is fast, channels last, batches of 32)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from encoder.backbones import OFFLINE_MODEL, load_backbone
from encoder.features import find_precision
from encoder.fusion import fuse

BATCH, ROUNDS, REPEATS = 32, 5, 5


def measure(images: Path | None) -> Iterator[dict[str, Any]]:
    """Yields the medians of alternating rounds, and their ratio. The input is random, because the time does not
    depend on the pixels."""
    torch.set_num_threads(1)
    dtype = find_precision("auto", torch.device("cpu"))
    plain, inner = (load_backbone(OFFLINE_MODEL) for _ in range(2))
    crop = plain.preprocessing.crop
    networks = {"plain": plain.module, "fused": fuse(inner.module, crop)}
    batch = torch.rand(BATCH, 3, crop, crop).to(dtype, memory_format=torch.channels_last)
    rates: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for network in networks.values():
            network.to(dtype, memory_format=torch.channels_last)(batch)
        for _ in range(ROUNDS):
            for name, network in networks.items():
                started = time.perf_counter()
                for _ in range(REPEATS):
                    network(batch)
                rates[name].append(BATCH * REPEATS / (time.perf_counter() - started))
    medians = {name: sorted(values)[ROUNDS // 2] for name, values in rates.items()}
    yield {
        "dtype": str(dtype),
        "plain_images_per_second": round(medians["plain"], 1),
        "fused_images_per_second": round(medians["fused"], 1),
        "ratio": round(medians["fused"] / medians["plain"], 2),
    }
