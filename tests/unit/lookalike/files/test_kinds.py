"""What a file is, by its first bytes and by its name."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pillow_heif
import pillow_jxl
import pytest
from PIL import Image

from lookalike.files.kinds import HEAD_BYTES, NOT_AN_IMAGE, format_of_head, why_skipped

pillow_heif.register_heif_opener()
assert pillow_jxl.JpegXLImagePlugin  # registers its format


def head_of(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (40, 30), 1).save(buffer, kind)
    return buffer.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"), ("PNG", "RGBA"), ("GIF", "P"), ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "L"),
        ("PPM", "RGB"), ("PPM", "1"), ("JPEG2000", "RGB"), ("AVIF", "RGB"), ("HEIF", "RGB"), ("JXL", "RGB"),
    ],
)  # fmt: skip
def test_every_format_is_known_by_its_first_bytes(kind: str, mode: str) -> None:
    assert format_of_head(head_of(kind, mode)) == kind
    assert why_skipped("scan", lambda: head_of(kind, mode)) == ""
    assert why_skipped("photo.txt", lambda: head_of(kind, mode)) == ""


@pytest.mark.parametrize(
    "text",
    [b"", b"BMW makes cars, and this text starts like a bitmap", b"P5 is a node of the graph", b"II. Chapter two",
     b"MM", b"GIF", b"RIFF\0\0\0\0AVI LIST", b"\0\0\0\x18ftypqt  ", b'{"key": 1}', b"%PDF-1.7"],
)  # fmt: skip
def test_other_files_are_not_images(text: bytes) -> None:
    assert format_of_head(text) == ""
    assert why_skipped("README", lambda: text) == NOT_AN_IMAGE


def test_name_of_an_image_is_taken_without_reading_the_file() -> None:
    for name in ("a.JPG", "a.heic", "a.jxl", "a.mpo", "a.tiff"):
        assert why_skipped(name, None) == ""
    assert why_skipped("notes.txt", None) == NOT_AN_IMAGE


@pytest.mark.parametrize("ending", "cr2 cr3 nef arw dng raf orf rw2 NEF".split())
def test_camera_raw_is_skipped_with_the_remedy(ending: str) -> None:
    assert why_skipped(f"shot.{ending}", lambda: head_of("TIFF")) == "camera raw; convert it to JPEG or TIFF"


def test_missing_plugin_is_named(tmp_path: Path) -> None:
    """In a process that cannot import the plugins, as in an installation without them."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.heic", "HEIF")
    Image.new("RGB", (40, 30)).save(tmp_path / "b.jpg", "HEIF")
    Image.new("RGB", (40, 30)).save(tmp_path / "c.heic", "JPEG")
    Image.new("RGB", (40, 30)).save(tmp_path / "d.jxl", "JXL")
    program = """
import sys
sys.modules["pillow_heif"] = sys.modules["pillow_jxl"] = None
from lookalike.cli import app
app(["ingest", sys.argv[1], "--dry-run", "--report", sys.argv[1] + ".jsonl"])
"""
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "2 images: 1 can be stored, 1 cannot" in result.stdout
    assert "1 skipped: HEIC needs pip install pillow-heif\n" in result.stdout
    assert "1 skipped: JPEG XL needs pip install pillow-jxl-plugin\n" in result.stdout
    letters = Path(f"{tmp_path}.jsonl").read_text()
    assert "cannot be decoded: HEIC needs pip install pillow-heif" in letters
