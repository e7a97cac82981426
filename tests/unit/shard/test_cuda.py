"""The scan on a GPU, in Numba's simulator of CUDA; and a shard that is told to use a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import cuda

from lookalike.model.errors import CannotStart
from shard.device import searcher

SIMULATOR = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
CASES = (
    """
16 bits, 64 bits, 72 bits, 256 bits, 1024 bits, 0 rows, 1 rows, 63 rows, 64 rows, 65 rows, no queries,
equal codes, equal codes and ids, within 0 bits, within 24 bits, within 64 bits,
select half of the rows, select few rows, select no rows, select a prefix,
after deletions, after an append, an older state, after a chunk grew, after compaction,
page from match 1, page from match 50, page from match 199, queries collected in groups, several chunks, stopped
""".strip()
    .replace(",\n", ", ")
    .split(", ")
)


def test_every_search_on_the_gpu_equals_the_cpus_and_the_oracles() -> None:
    command = [sys.executable, "-m", "tests.unit.shard.cuda_scans"]
    done = subprocess.run(command, env=SIMULATOR, capture_output=True, text=True, timeout=300, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _ in found] == CASES, done.stderr
    assert [name for name, is_equal in found if not is_equal] == []


@pytest.mark.skipif(cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_one_clear_error() -> None:
    with pytest.raises(CannotStart, match=r"^shard.device: cuda, but no GPU is usable here \(.+\); use cpu$"):
        searcher("cuda")


def test_shard_that_is_told_to_use_a_missing_gpu_does_not_start(tmp_path: Path) -> None:
    config = {"cluster": "c", "partitions": 1, "encoder": None, "shard": {"device": "cuda", "data": str(tmp_path)}}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "shard", "--config", str(tmp_path / "c.yaml"), "--partition", "0"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "shard.device: cuda, but no GPU is usable here" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "c.yaml"]


def test_a_shard_without_gpu_does_not_load_the_module_for_cuda() -> None:
    assert searcher("cpu") is None
    program = (
        "import sys, shard.__main__; assert not [m for m in sys.modules if m.startswith('numba.cuda.cudadrv')]"
    )
    subprocess.run([sys.executable, "-c", program], timeout=120, check=True)


ENGINE = """
import sys
from pathlib import Path
import numpy as np
from lookalike.cluster.scan import ScanGroup
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.device import searcher
from shard.engine import Engine
from shard.store import Store

space, folder = CodeSpace(64), Path(sys.argv[1])
Store.create(folder, space, Indexing())
codes = np.random.default_rng(0).integers(0, 256, (60, 8), np.uint8)
engine = Engine(Store(folder), searcher=searcher("cuda"))
engine.write([VersionedRecord(f"key{n}", code.tobytes(), "{}", 1) for n, code in enumerate(codes)])
group = ScanGroup("c", space.fingerprint, codes[:3], 2, exclude_keys=("key1",))
print(*engine.scan(group, lambda: False).hits.keys[::2])
"""


def test_shards_engine_scans_on_the_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(tmp_path / "store")]
    done = subprocess.run(command, env=SIMULATOR, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split()
    assert (first, third) == ("key0", "key2")
    assert second != "key1"
