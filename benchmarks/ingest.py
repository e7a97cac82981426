"""Images per second of the batch job against a plain torch loop over the same files in the same run.

The loop uses Pillow, torchvision's transforms, batches of 32, float32, the same network with the same weights, and
torch's default number of threads. It stores nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encoder.ingest.sources import find_sources
from lab.demo.photographs import bundled_photographs, write_views
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.server.config import EncoderConfig

_VIEWS_EACH = 50
_LOOP = """
import json, sys, time, torch, torchvision.transforms.v2 as T
from PIL import Image
from encoder.backbones import load_backbone
paths = json.load(sys.stdin)
started = time.perf_counter()
backbone = load_backbone("tf_efficientnet_lite0")
p = backbone.preprocessing
transform = T.Compose([T.Resize(p.resize, T.InterpolationMode.BICUBIC), T.CenterCrop(p.crop), T.ToImage(),
                       T.ToDtype(torch.float32, scale=True), T.Normalize(p.mean, p.std)])
first = time.perf_counter()
with torch.inference_mode():
    for start in range(0, len(paths), 32):
        images = [transform(Image.open(path).convert("RGB")) for path in paths[start:start + 32]]
        features = backbone.module(torch.stack(images))
ended = time.perf_counter()
print(json.dumps({"loop_seconds": ended - first, "all_seconds": ended - started,
                  "threads": torch.get_num_threads()}))
"""


def measure(images: Path | None) -> Iterator[dict[str, Any]]:
    """Yields the loop's rate, the job's rate and their ratio, without and with start-up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if images is None:
            images = folder / "views"
            for photograph in bundled_photographs():
                assert len(list(write_views(photograph, range(_VIEWS_EACH), "bench", images))) == _VIEWS_EACH
        paths = [source.url.removeprefix("file://") for source in find_sources([str(images)]).sources]
        loop = _run_loop(paths)
        job, seconds = _run_job(images, folder)
    assert job["stored"] == len(paths)
    loop_rate = len(paths) / loop["loop_seconds"]
    yield {
        "images": len(paths),
        "loop_images_per_second": round(loop_rate, 1),
        "loop_threads": loop["threads"],
        "job_images_per_second": round(job["images_per_second"], 1),
        "ratio": round(job["images_per_second"] / loop_rate, 2),
        "loop_seconds_with_start": round(loop["all_seconds"], 1),
        "job_seconds_with_start": round(seconds, 1),
        "ratio_with_start": round(loop["all_seconds"] / seconds, 2),
    }


def _run_loop(paths: list[str]) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-c", _LOOP], input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def _run_job(images: Path, folder: Path) -> tuple[dict[str, Any], float]:
    """Returns the job's summary and the seconds that its command took."""
    config = ephemeral_config(folder / "cluster", 4, EncoderConfig())
    supervisor = Supervisor(config, folder / "cluster", lambda line: print(line, file=sys.stderr))
    try:
        supervisor.launch()
        supervisor.wait_ready()
        command = [sys.executable, "-m", "lookalike", "ingest", str(images), "--json"]
        command += ["--server", config.coordinator.listen, "--dead-letters", str(folder / "dead.jsonl")]
        started = time.perf_counter()
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - started
    finally:
        supervisor.stop()
    return json.loads(result.stdout), seconds
