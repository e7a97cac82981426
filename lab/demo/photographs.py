"""Owns the demo's images: the photographs in the wheels of scikit-image and scikit-learn, or the images in a
folder, and views derived from them by crop, flip, rotation, scale, JPEG quality, colour and blur."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from encoder.images import FORMATS
from lookalike.files.kinds import EXTENSIONS
from lookalike.model.errors import CannotStart, InvalidRequest

# Only photographs: the wheels also hold drawings, masks and test patterns.
_SKIMAGE = (
    "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png"
    " gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg"
)
_SKLEARN = ("china.jpg", "flower.jpg")
HELD_OUT = "motorcycle_right.png"
ITS_PAIR = "motorcycle_left"
_LONG_SIDE = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Photograph:
    """An image to derive views from. name: prefix of its views' names. label: views with the same label match."""

    name: str
    label: str
    path: Path


def bundled_photographs() -> list[Photograph]:
    """The photographs in the wheels, except the held-out half of the stereo pair."""
    paths = [_data_folder("skimage", "data") / name for name in _SKIMAGE.split()]
    paths += [_data_folder("sklearn", "datasets/images") / name for name in _SKLEARN]
    return [Photograph(path.stem, path.stem, path) for path in paths]


def held_out_photograph() -> Path:
    """The right half of the stereo pair, which is never indexed."""
    return _data_folder("skimage", "data") / HELD_OUT


def folder_photographs(folder: Path) -> list[Photograph]:
    """The images below a folder. A sub-folder's name is its images' label; other images are their own label."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not paths:
        raise InvalidRequest(f"images: {folder} holds no image files; name a folder of photographs")
    return [
        Photograph(
            "-".join(path.relative_to(folder).with_suffix("").parts),
            path.parent.name if path.parent != folder else path.stem,
            path,
        )
        for path in paths
    ]


def write_views(photograph: Photograph, numbers: range, seed: str, folder: Path) -> Iterator[Path]:
    """Writes views of a photograph into folder/LABEL.

    Args:
        photograph: The photograph. If it cannot be read, it has no views.
        numbers: The views' numbers. View 0 is the image itself, the others are derived.
        seed: A seed always gives the same views; another seed gives other views.
        folder: The folder.

    Yields:
        The views' paths.
    """
    target = folder / photograph.label
    target.mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(photograph.path, formats=FORMATS) as file:
            file.draft("RGB", (_LONG_SIDE, _LONG_SIDE))
            image = ImageOps.exif_transpose(file).convert("RGB")
            image.thumbnail((_LONG_SIDE, _LONG_SIDE))
    except (OSError, ValueError):
        return
    for number in numbers:
        rng = random.Random(f"{seed} {photograph.name} {number}")
        view, kind, quality = (image, "as-it-is", 90) if number == 0 else _view(image, number, rng)
        path = target / f"{photograph.name}--{seed}-{number:02d}-{kind}.jpg"
        view.save(path, quality=quality)
        yield path


def _view(image: Image.Image, number: int, rng: random.Random) -> tuple[Image.Image, str, int]:
    """A derived view, its kind, and its JPEG quality. The number decides the kind. Every kind is applied to
    a random crop, so no two views are the same."""
    kind = _KINDS[number % len(_KINDS)]
    view, quality = _crop(image, rng.uniform(0.6, 0.95), rng), 90
    match kind:
        case "flip":
            view = ImageOps.mirror(view)
        case "rotation":
            view = _rotate(view, rng.uniform(-15, 15))
        case "scale":
            view = ImageOps.scale(view, rng.uniform(0.3, 0.7))
        case "jpeg":
            quality = rng.randint(8, 30)
        case "colour":
            view = ImageEnhance.Brightness(view).enhance(rng.uniform(0.7, 1.3))
            view = ImageEnhance.Color(view).enhance(rng.uniform(0.3, 1.6))
        case "blur":
            view = view.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.5)))
    return view, kind, quality


_KINDS = ("crop", "flip", "rotation", "scale", "jpeg", "colour", "blur")


def _crop(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    width, height = (max(1, int(side * share)) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Rotates an image, and crops it so that no corner is empty."""
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    margin = 0.2
    width, height = image.size
    return turned.crop(
        (int(width * margin), int(height * margin), int(width * (1 - margin)), int(height * (1 - margin)))
    )


def take_evenly(photographs: list[Photograph], count: int) -> list[Photograph]:
    """At most `count` photographs, evenly spread."""
    step = max(1, len(photographs) // count)
    return list(itertools.islice(photographs[::step], count))


def _data_folder(package: str, inside: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise CannotStart(
            f"demo: needs the photographs in {package}; run pip install '.[demo]' in the checkout, or pass"
            " --images DIR"
        )
    return Path(found.origin).parent / inside
