"""Owns what a file is: its format by its first bytes or by its name's ending, and why an image of that format
cannot be decoded here. Imports no decoder, so that listing files needs none."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import PurePath

# The number of bytes that `format_of_head` needs.
HEAD_BYTES = 64
HEIF, JXL, RAW = "HEIF", "JXL", "RAW"
NOT_AN_IMAGE = "not an image"

_NAMES = "jpg jpeg jpe jfif mpo png apng gif webp bmp dib tif tiff ppm pgm pbm pnm avif jp2 j2k heic heif hif jxl"
EXTENSIONS = frozenset(f".{name}" for name in _NAMES.split())
_RAW_ENDINGS = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"))
_FORMAT_OF_ENDING = {
    ".heic": HEIF, ".heif": HEIF, ".hif": HEIF, ".jxl": JXL, **dict.fromkeys(_RAW_ENDINGS, RAW),
}  # fmt: skip

# The formats have Pillow's names.
_SIGNATURES = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    # Text may start with BM, so the header's size and the reserved zeros must match too.
    ("BMP", rb"BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("PPM", rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+"),
    ("JPEG2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("AVIF", rb"....ftyp(?:avi[fs]|(?:mif1|msf1|miaf).*avi[fs])"),
    (HEIF, rb"....ftyp(?:he[iv][cxms]|mif1|msf1|miaf)"),
    (JXL, rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
    (RAW, rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.DOTALL)) for name, pattern in _SIGNATURES)

# What decodes the formats that Pillow does not: the format's usual name, the module, the package.
_PLUGINS = {HEIF: ("HEIC", "pillow_heif", "pillow-heif"), JXL: ("JPEG XL", "pillow_jxl", "pillow-jxl-plugin")}


def format_of_head(head: bytes) -> str:
    """The format of an image file by its first HEAD_BYTES bytes, under Pillow's name or RAW for camera raw; empty
    if they are not the start of an image."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), "")


@functools.cache
def obstacle(format: str) -> str:
    """Why images of a format cannot be decoded here, with the remedy; empty if they can."""
    if format == RAW:
        return "camera raw; convert it to JPEG or TIFF"
    if format in _PLUGINS:
        name, module, package = _PLUGINS[format]
        return "" if is_installed(module) else f"{name} needs pip install {package}"
    return "" if format else NOT_AN_IMAGE


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def why_skipped(name: str, head: Callable[[], bytes] | None) -> str:
    """Why a file is not taken as an image; empty if it is. A file whose name ends like an image's is taken without
    a look at its content; if it is no image, it is counted as unreadable later.

    Args:
        name: The file's name.
        head: Reads the file's first bytes; None if only the name decides.
    """
    ending = PurePath(name).suffix.lower()
    by_ending = _FORMAT_OF_ENDING.get(ending, "JPEG" if ending in EXTENSIONS else "")
    if not obstacle(by_ending) or by_ending == RAW:
        return obstacle(by_ending)
    return obstacle(by_ending if head is None else format_of_head(head()))
