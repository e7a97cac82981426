"""Owns decoding JPEG XL, in a child process whose memory and time are bounded: the decoder has no limits of its
own, and a small file can claim any number of pixels, channels and frames."""

from __future__ import annotations

import io
import json
import subprocess
import sys

from PIL import Image

# The memory of the interpreter and the libraries, and the most that libjxl needs for a pixel of a usual picture.
_BASE_BYTES = 512 * 1024 * 1024
_BYTES_PER_PIXEL = 24
_TIMEOUT_SECONDS = 30


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Decodes a JPEG XL file. The image is upright, unless the file was made from a JPEG file without loss: then
    the image has the EXIF data of that file.

    Args:
        data: The file's bytes.
        max_pixels: The most pixels that the image may have.

    Raises:
        ValueError: If the file is damaged, or its decoding takes too much memory or time.
    """
    limit_bytes = _BASE_BYTES + max_pixels * _BYTES_PER_PIXEL
    try:
        child = subprocess.run(
            [sys.executable, "-m", "encoder.jxl", str(limit_bytes)],
            input=data,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"decoding takes over {_TIMEOUT_SECONDS} seconds") from None
    if child.returncode:
        raise ValueError(
            f"decoding fails within {limit_bytes // 2**20:,} MiB, the bound for {max_pixels:,} pixels"
        )
    header, _, pixels = child.stdout.partition(b"\n")
    found = json.loads(header)
    image = Image.frombytes(found["mode"], found["size"], pixels)
    image.info["exif"] = bytes.fromhex(found["exif"])
    return image


def _main(limit_bytes: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    import pillow_jxl.JpegXLImagePlugin as plugin

    # Each thread would reserve address space.
    plugin.DECODE_THREADS = 0
    with Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=("JXL",)) as image:
        image.load()
        # libjxl turns the picture upright, but not a JPEG file that it restores.
        exif = image.info.get("exif", b"") if getattr(image, "jpeg", False) else b""
        header = {"mode": image.mode, "size": image.size, "exif": exif.hex()}
        sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + image.tobytes())


if __name__ == "__main__":
    _main(int(sys.argv[1]))
