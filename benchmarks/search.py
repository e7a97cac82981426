"""Latency of Search by code and by image, with one client, on four shards with the real encoder; and the start-up
time of the cluster."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoder.ingest.sources import find_sources
from lab.demo.photographs import bundled_photographs, write_views
from lookalike import Client, Record
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.server.config import EncoderConfig

ROWS = 100_000
BITS = 256
BY_CODE, BY_IMAGE, WARM_UP = 2_000, 300, 30


def measure(images: Path | None) -> Iterator[dict[str, Any]]:
    """Yields p50 and p99 in milliseconds over ROWS random codes; answers are verified before they are timed."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (ROWS, BITS // 8), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents = _load_images(images, folder)
        config = ephemeral_config(folder / "cluster", 4, EncoderConfig(bits=BITS))
        supervisor = Supervisor(config, folder / "cluster", lambda line: print(line, file=sys.stderr))
        started = time.perf_counter()
        try:
            supervisor.launch()
            supervisor.wait_ready()
            yield {"figure": "start of four shards, encoder and coordinator", "seconds": _since(started)}
            with Client(config.coordinator.listen) as client:
                client.create_collection("c")
                records = (Record(f"k{i}", code=code.tobytes()) for i, code in enumerate(codes))
                started = time.perf_counter()
                assert all(outcome.ok for outcome in client.ingest(records, collection="c"))
                yield {"figure": "ingest of ready codes", "codes_per_second": round(ROWS / _since(started))}
                for i in range(0, ROWS, ROWS // 20):
                    assert client.search(code=codes[i].tobytes(), k=1, collection="c").hits[0].key == f"k{i}"
                queries = [code.tobytes() for code in codes[:BY_CODE]]
                yield _timed("code", lambda code: client.search(code=code, collection="c"), queries)
                query_images = [contents[i % len(contents)] for i in range(BY_IMAGE)]
                yield _timed("image", lambda image: client.search(image=image, collection="c"), query_images)
        finally:
            supervisor.stop()


def _load_images(images: Path | None, folder: Path) -> list[bytes]:
    if images is None:
        images = folder / "views"
        for photograph in bundled_photographs():
            assert len(list(write_views(photograph, range(3), "bench", images))) == 3
    paths = [source.url.removeprefix("file://") for source in find_sources([str(images)]).sources]
    return [Path(path).read_bytes() for path in paths[:: max(1, len(paths) // BY_IMAGE)]]


def _timed(kind: str, search: Callable[[bytes], object], queries: Sequence[bytes]) -> dict[str, Any]:
    for query in queries[:WARM_UP]:
        search(query)
    milliseconds = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        milliseconds.append((time.perf_counter() - started) * 1000)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"figure": f"search by {kind}", "rows": ROWS, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)
