"""Owns the JPEG files that `benchmarks.gpu` encodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lab.demo.photographs import bundled_photographs, folder_photographs, write_views
from lookalike.model.errors import CannotStart


def write_files(images: Path | None, views: int, folder: Path) -> list[Path]:
    """Writes JPEG files to a folder: views of photographs, or of textures where no photographs are installed.

    Args:
        images: A folder of photographs; None for those in the wheels of scikit-image and scikit-learn.
        views: The number of views of each photograph.
        folder: The folder.

    Returns:
        The files.
    """
    try:
        photographs = bundled_photographs() if images is None else folder_photographs(images)
    except CannotStart:
        photographs = folder_photographs(write_textures(folder / "textures"))
    found: list[Path] = []
    for photograph in photographs:
        found += write_views(photograph, range(views), "gpu", folder / "views")
    return found


def write_textures(folder: Path) -> Path:
    """Writes 16 coloured textures with the spectrum of photographs (amplitude falls as 1 / frequency)."""
    folder.mkdir()
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(768)[:, None], np.fft.rfftfreq(768))
    for number in range(16):
        noise = np.fft.rfft2(random.standard_normal((3, 768, 768))) / np.maximum(frequencies, 1 / 768)
        texture = np.fft.irfft2(noise)
        low, high = np.quantile(texture, (0.01, 0.99))
        values = np.clip((texture - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(values.transpose(1, 2, 0)).save(folder / f"texture-{number}.png")
    return folder
