"""Owns labelled image sets and their splits into images to index and images to query with.

A set is named (cifar10, caltech101, flowers102, coco2017) or a folder or archive with one sub-folder a class. One
seed gives the same split on every machine. What is downloaded or extracted lies below the data folder, once."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder.ingest.sources import EXTENSIONS
from lookalike.errors import CannotStart, InvalidRequest

Rows = NDArray[np.int64]

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_COCO = "http://images.cocodataset.org"
# The MD5s are those that the common object detection projects check; the host itself is plain HTTP.
_COCO_PARTS = {
    "train2017": (f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": (f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations": (f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
}


# What torchvision lets through when a download, an archive or a file of a set is not as it should be.
_FETCH_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages:
    """n images with their classes, of which some are indexed, others are queries, and the rest is unused."""

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.bool_]  # (n, classes); a single-label set has one True a row
    keys: tuple[str, ...]  # n unique stable names
    indexed: Rows  # ascending rows
    queries: Rows  # ascending rows, none of them indexed
    read: Callable[[int], bytes]  # row -> an image file's bytes
    sizes: tuple[int, ...] = ()  # a number for each image that changes with it: its file's bytes

    @property
    def is_multi_label(self) -> bool:
        """Whether an image can have other than one class."""
        return bool((self.labels.sum(axis=1) != 1).any())

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the name and every image's key and size: the same for every split of the same
        images, another when an image comes, goes, or changes its size."""
        text = json.dumps([self.name, self.keys, self.sizes])
        return hashlib.sha256(text.encode()).hexdigest()


def load_dataset(
    name_or_path: str, *, data: Path, seed: int = 0, download: bool = True, limit: int | None = None
) -> LabelledImages:
    """The set of this name, looked for below `data` and downloaded into it; else the folder or archive at this
    path. `limit`: at most so many images, evenly over the classes. Raises InvalidRequest for what is neither a
    name nor a path of classes, and CannotStart for a set that is not there or not whole."""
    if limit is not None and limit < 2:
        raise InvalidRequest(f"limit: {limit} leaves nothing to index or to query with; use 2 or more")
    if not 0 <= seed < 2**32:
        raise InvalidRequest(f"seed: {seed}; use 0 to {2**32 - 1}")
    if load := _NAMED.get(name_or_path):
        return limit_both_sides(load(data, seed, download), limit, seed)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _load_path(path, path.resolve().name, seed, limit)
    if path.is_file() and (suffix := _archive_suffix(path)):
        return _load_path(_extracted(path, suffix, data), path.name[: -len(suffix)], seed, limit)
    problem = f"is not an archive ({', '.join(ARCHIVES)})" if path.is_file() else "is no name of a set and no path"
    raise InvalidRequest(
        f"dataset: {name_or_path} {problem}; use {', '.join(_NAMED)}, or a folder with one sub-folder a class"
    )


# Splits


def shuffled_ranks(groups: Rows, seed: int) -> Rows:
    """Each row's place, from 0, in a random order of its group's rows. groups: (n,) numbers. The random stream
    is NumPy's frozen legacy one, which no version or machine changes."""
    random = np.random.RandomState(seed)
    ranks = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranks[random.permutation(rows)] = np.arange(len(rows))
    return ranks


def split_per_class(groups: Rows, seed: int) -> tuple[Rows, Rows]:
    """(indexed, queries): 80 % and 20 % of each group's rows, rounded, but at least one of each. A group of one
    is indexed."""
    sizes = np.bincount(groups)[groups]
    count = np.clip((8 * sizes + 5) // 10, 1, np.maximum(1, sizes - 1))
    is_indexed = shuffled_ranks(groups, seed) < count
    return np.flatnonzero(is_indexed), np.flatnonzero(~is_indexed)


def split_pool(groups: Rows, seed: int) -> tuple[Rows, Rows]:
    """(indexed, queries): 80 % and 10 % of all rows, and of each group's as nearly as whole images allow."""
    n = len(groups)
    position = (shuffled_ranks(groups, seed) + 0.5) / np.bincount(groups)[groups]
    order = np.argsort(position, kind="stable")
    indexed = -(-8 * n // 10)
    return np.sort(order[:indexed]), np.sort(order[indexed : indexed + n // 10])


def limit_both_sides(images: LabelledImages, limit: int | None, seed: int) -> LabelledImages:
    """At most `limit` images, the indexed and the queries in the proportion that they have; the others, and
    the unused, are gone."""
    total = len(images.indexed) + len(images.queries)
    if limit is None or limit >= total:
        return images
    queries = max(1, limit * len(images.queries) // total)
    groups = _groups(images.labels)
    sides = [
        side[_take_evenly(groups[side], count, seed)]
        for side, count in ((images.indexed, limit - queries), (images.queries, queries))
    ]
    rows = np.sort(np.concatenate(sides))
    return dataclasses.replace(
        images,
        labels=images.labels[rows],
        keys=tuple(images.keys[row] for row in rows),
        indexed=np.searchsorted(rows, sides[0]),
        queries=np.searchsorted(rows, sides[1]),
        read=lambda row: images.read(int(rows[row])),
        sizes=tuple(images.sizes[row] for row in rows) if images.sizes else (),
    )


def _take_evenly(groups: Rows, count: int, seed: int, at_first: int = 1) -> Rows:
    """`count` rows, ascending: in turns one of each group, at random, and `at_first` of each in the first."""
    ranks = shuffled_ranks(groups, seed)
    turns = np.maximum(ranks, at_first - 1)
    return np.sort(np.lexsort((ranks, groups, turns))[:count])


def _groups(labels: NDArray[np.bool_]) -> Rows:
    """Each image's class, its first where it has several; images without one are a group of their own."""
    groups: Rows = np.where(labels.any(axis=1), labels.argmax(axis=1), labels.shape[1])
    return groups


def _one_hot(targets: Rows, classes: int) -> NDArray[np.bool_]:
    labels: NDArray[np.bool_] = targets[:, None] == np.arange(classes)
    return labels


# Named sets


def _load_cifar10(data: Path, seed: int, download: bool) -> LabelledImages:
    with _needed("cifar10", data / "cifar-10-batches-py", download):
        from torchvision.datasets import CIFAR10

        train = CIFAR10(data, train=True, download=download)
        test = CIFAR10(data, train=False)
    return cifar10_images(train, test, seed)


def cifar10_images(train: Any, test: Any, seed: int) -> LabelledImages:
    """80 % of each class's training images indexed, all test images as queries. train, test: torchvision's
    CIFAR10, with data uint8 (n, 32, 32, 3), targets and classes. Images are read as PNG files."""
    pixels = np.concatenate([train.data, test.data])
    targets = np.array([*train.targets, *test.targets], np.int64)
    first_query = len(train.data)
    keys = [f"train/{row:05d}.png" for row in range(first_query)]
    keys += [f"test/{row:05d}.png" for row in range(len(test.data))]

    def read(row: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels[row]).save(file, "PNG")
        return file.getvalue()

    return LabelledImages(
        name="cifar10",
        classes=tuple(train.classes),
        labels=_one_hot(targets, len(train.classes)),
        keys=tuple(keys),
        indexed=split_per_class(targets[:first_query], seed)[0],
        queries=np.arange(first_query, len(pixels)),
        read=read,
        # There are no files, and how long a PNG is depends on the version of its compressor.
        sizes=tuple(zlib.crc32(image.tobytes()) for image in pixels),
    )


def _load_caltech101(data: Path, seed: int, download: bool) -> LabelledImages:
    folder = data / "caltech101" / "101_ObjectCategories"
    with _needed("caltech101", folder, download):
        if not folder.is_dir():
            from torchvision.datasets import Caltech101

            Caltech101(data, download=download)
        found = [image for image in _find_images(folder) if image.class_name != "BACKGROUND_Google"]
    if not found:
        raise CannotStart(f"dataset caltech101: {folder} has no class folders; delete it to download it again")
    return _split_files("caltech101", found, seed)


def _load_flowers102(data: Path, seed: int, download: bool) -> LabelledImages:
    folder = data / "flowers-102"
    with _needed("flowers102", folder, download):
        from scipy.io import loadmat  # type: ignore[import-untyped]
        from torchvision.datasets import Flowers102

        Flowers102(data, download=download)
        # Its three splits are pooled, so the list of all images' labels, from 1, is what counts.
        targets = loadmat(folder / "imagelabels.mat")["labels"].ravel().astype(np.int64) - 1
        classes = tuple(Flowers102.classes)
        paths = [folder / "jpg" / f"image_{number:05d}.jpg" for number in range(1, len(targets) + 1)]
        sizes = tuple(path.stat().st_size for path in paths)
    indexed, queries = split_pool(targets, seed)
    return LabelledImages(
        name="flowers102",
        classes=classes,
        labels=_one_hot(targets, len(classes)),
        keys=tuple(path.name for path in paths),
        indexed=indexed,
        queries=queries,
        read=lambda row: paths[row].read_bytes(),
        sizes=sizes,
    )


def _load_coco2017(data: Path, seed: int, download: bool) -> LabelledImages:
    folder = data / "coco2017"
    for part, (url, md5) in _COCO_PARTS.items():
        if not (folder / part).is_dir():
            with _needed("coco2017", folder / part, download):
                _fetch(url, md5, folder, download)
    train, val = (_read_coco_side(folder, side) for side in ("train2017", "val2017"))
    if train.classes != val.classes:
        raise CannotStart(
            f"dataset coco2017: the categories in {folder / 'annotations'} differ between train and val;"
            " delete that folder to download it again"
        )
    paths = train.paths + val.paths
    return LabelledImages(
        name="coco2017",
        classes=train.classes,
        labels=np.concatenate([train.labels, val.labels]),
        keys=tuple(path.relative_to(folder).as_posix() for path in paths),
        indexed=np.arange(len(train.paths)),
        queries=np.arange(len(train.paths), len(paths)),
        read=lambda row: paths[row].read_bytes(),
        sizes=train.sizes + val.sizes,
    )


def _fetch(url: str, md5: str, folder: Path, download: bool) -> None:
    if not download:
        raise FileNotFoundError("there is no such folder")
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(url, str(folder), md5=md5, remove_finished=True)


@dataclasses.dataclass(frozen=True, slots=True)
class _CocoSide:
    classes: tuple[str, ...]
    labels: NDArray[np.bool_]
    paths: tuple[Path, ...]
    sizes: tuple[int, ...]


def _read_coco_side(folder: Path, side: str) -> _CocoSide:
    """One side's images by file name, with the classes of the objects annotated in them, by category id."""
    annotations = folder / "annotations" / f"instances_{side}.json"
    try:
        with annotations.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_without_outline)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        images = sorted(content["images"], key=lambda image: image["file_name"])
        column = {category["id"]: number for number, category in enumerate(categories)}
        row = {image["id"]: number for number, image in enumerate(images)}
        labels = np.zeros((len(images), len(categories)), bool)
        for annotation in content["annotations"]:
            labels[row[annotation["image_id"]], column[annotation["category_id"]]] = True
        paths = tuple(folder / side / PurePosixPath(image["file_name"]).name for image in images)
        sizes = tuple(path.stat().st_size for path in paths)
        return _CocoSide(tuple(category["name"] for category in categories), labels, paths, sizes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotStart(
            f"dataset coco2017: {annotations} and {folder / side} are not whole ({_reason(error)});"
            f" delete annotations and {side} below {folder} to download them again"
        ) from None


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are nearly all of the file: kept until its end, their points would take gigabytes."""
    entry.pop("segmentation", None)
    return entry


@contextlib.contextmanager
def _needed(name: str, folder: Path, download: bool) -> Iterator[None]:
    """Turns what goes wrong in fetching and opening a set into CannotStart."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "torchvision").partition(".")[0]
        raise CannotStart(f"dataset {name}: needs the package {package}; pip install {package}") from None
    except _FETCH_ERRORS as error:
        remedy = "delete what is there and connect this machine to the network" if download else "allow downloads"
        raise CannotStart(
            f"dataset {name}: is not whole in {folder} and was not downloaded ({_reason(error)});"
            f" {remedy}, or put the set there by hand"
        ) from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


_NAMED: Mapping[str, Callable[[Path, int, bool], LabelledImages]] = {
    "cifar10": _load_cifar10,
    "caltech101": _load_caltech101,
    "flowers102": _load_flowers102,
    "coco2017": _load_coco2017,
}


# Folders and archives


@dataclasses.dataclass(frozen=True, slots=True)
class _ImageFile:
    key: str
    class_name: str
    path: Path


def _load_path(folder: Path, name: str, seed: int, limit: int | None) -> LabelledImages:
    try:
        return _load_folder(_class_root(folder), name, seed, limit)
    except OSError as error:
        raise InvalidRequest(
            f"dataset: {folder} cannot be read ({_reason(error)}); let this user read it"
        ) from None


def _load_folder(folder: Path, name: str, seed: int, limit: int | None) -> LabelledImages:
    sides = {path.name for path in _folders(folder)}
    if sides == {"train", "val", "test"}:
        raise InvalidRequest(
            f"dataset: {folder} has train, val and test, and one must give the queries; move val or test away"
        )
    if sides in ({"train", "test"}, {"train", "val"}):
        return limit_both_sides(_two_sided(folder, name), limit, seed)
    found = _find_images(folder)
    if not _has_a_pair(found):
        raise InvalidRequest(
            f"dataset: {folder} has no class with two images; give it one sub-folder a class, with image files"
        )
    if limit is not None:
        groups = np.unique([image.class_name for image in found], return_inverse=True)[1]
        # Two of a class at first: one of each would leave nothing to query with.
        found = [found[row] for row in _take_evenly(groups, limit, seed, at_first=2)]
    if not _has_a_pair(found):
        raise InvalidRequest(f"limit: {limit} takes no two images of one class of {folder}; raise it")
    return _split_files(name, found, seed)


def _has_a_pair(found: Sequence[_ImageFile]) -> bool:
    return len({image.class_name for image in found}) < len(found)


def _split_files(name: str, found: Sequence[_ImageFile], seed: int) -> LabelledImages:
    images = _from_files(name, found)
    indexed, queries = split_per_class(_groups(images.labels), seed)
    return dataclasses.replace(images, indexed=indexed, queries=queries)


def _two_sided(folder: Path, name: str) -> LabelledImages:
    """The images below train are indexed, the others are queries; keys start with the side."""
    found = [
        dataclasses.replace(image, key=f"{side.name}/{image.key}")
        for side in _folders(folder)
        for image in _find_images(side)
    ]
    is_indexed = np.array([image.key.startswith("train/") for image in found], bool)
    for side, count in (("train", is_indexed.sum()), ("test or val", (~is_indexed).sum())):
        if not count:
            raise InvalidRequest(
                f"dataset: {folder} has no images in class folders below {side}; use one sub-folder a class"
            )
    images = _from_files(name, found)
    return dataclasses.replace(images, indexed=np.flatnonzero(is_indexed), queries=np.flatnonzero(~is_indexed))


def _from_files(name: str, found: Sequence[_ImageFile]) -> LabelledImages:
    classes, targets = np.unique([image.class_name for image in found], return_inverse=True)
    paths = [image.path for image in found]
    return LabelledImages(
        name=name,
        classes=tuple(classes.tolist()),
        labels=_one_hot(targets, len(classes)),
        keys=tuple(image.key for image in found),
        indexed=np.zeros(0, np.int64),
        queries=np.zeros(0, np.int64),
        read=lambda row: paths[row].read_bytes(),
        sizes=tuple(path.stat().st_size for path in paths),
    )


def _find_images(folder: Path) -> list[_ImageFile]:
    """The image files at any depth below each class folder, by key, which is the path below `folder`."""
    found = [
        _ImageFile(path.relative_to(folder).as_posix(), class_folder.name, path)
        for class_folder in _folders(folder)
        for path in _files(class_folder)
    ]
    return sorted(found, key=lambda image: image.key)


def _files(folder: Path) -> Iterator[Path]:
    for parent, names, files in os.walk(folder, onerror=_raise):
        names[:] = [name for name in names if not _is_hidden(name)]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in EXTENSIONS and not _is_hidden(name) and path.is_file():
                yield path


def _raise(error: OSError) -> None:
    """A folder that cannot be read must not count as an empty one."""
    raise error


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    # macOS adds the latter to zip files, with a shadow of every image.
    return name.startswith(".") or name == "__MACOSX"


def _class_root(folder: Path) -> Path:
    """The folder that holds the class folders: this one, or the one inside that all is wrapped in."""
    folders = _folders(folder)
    if len(folders) == 1 and _folders(folders[0]):
        return _class_root(folders[0])
    return folder


def _archive_suffix(path: Path) -> str | None:
    return next((suffix for suffix in ARCHIVES if path.name.lower().endswith(suffix)), None)


def _extracted(archive: Path, suffix: str, data: Path) -> Path:
    """The folder below data/extracted with this archive's files, extracted unless it is there. An archive that
    changes gets another folder. Raises InvalidRequest for one that is damaged or writes outside of its folder."""
    state = archive.stat()
    digest = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    target = data / "extracted" / f"{archive.name[: -len(suffix)]}-{digest}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under its own name only when it is whole, so that an extraction cut short is not taken for the set.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
            folder = Path(partial, "images")
            folder.mkdir()
            _extract(archive, suffix, folder)
            folder.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was first
            raise CannotStart(
                f"dataset: {archive} cannot be extracted to {target} ({_reason(error)});"
                " make room and let this user write there"
            ) from None
    return target


def _extract(archive: Path, suffix: str, folder: Path) -> None:
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                _refuse_escapes(archive, file.namelist())
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
                _check_end(file)
    except tarfile.FilterError as error:
        raise InvalidRequest(
            f"dataset: {archive} is not safe to extract ({_reason(error)}); pack it anew"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidRequest(f"dataset: {archive} is damaged or locked ({_reason(error)}); pack it anew") from None


def _check_end(file: tarfile.TarFile) -> None:
    """tarfile takes an archive that is cut short, or damaged, between two files for one that ends there; one that
    ends has a block of zeros. Reading on to the end also checks gzip's checksum."""
    if file.fileobj is not None:
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends without its mark of the end")
        while file.fileobj.read(1 << 20):
            pass


def _refuse_escapes(archive: Path, members: Sequence[str]) -> None:
    for member in members:
        # The Windows reading also splits at backslashes and knows drives, whatever the machine.
        path = PureWindowsPath(member)
        if path.drive or path.root or ".." in path.parts:
            raise InvalidRequest(
                f"dataset: {archive} is not safe to extract ({member!r} would lie outside); pack it anew"
            )
