"""Owns the demo's steps: start a cluster, ingest with the batch job, search, compare with brute force."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from lab.demo.photographs import Photograph, take_evenly, write_views
from lookalike.client.sync_client import Client
from lookalike.local.supervisor import Supervisor
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.records import MAX_BATCH_QUERIES, StoredRecord, record_id
from lookalike.model.results import SearchResult
from lookalike.server.config import ClusterConfig

COLLECTION = "demo"
PARTITIONS = 4
MIN_RECORDS = 500
QUERY_PHOTOGRAPHS = 20
QUERIES_EACH = 3
RANDOM_QUERIES = 1_000
TOP = 5
_FETCH_KEYS = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A query image that is not in the index, and the label that correct hits have."""

    path: Path
    label: str

    @property
    def title(self) -> str:
        return self.path.stem.replace("--query", "")


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    question: Question
    result: SearchResult

    def is_right(self, rank: int) -> bool:
        return bool(self.result.hits[rank].attributes.get("label") == self.question.label)

    @property
    def precision(self) -> float:
        """Precision@5: the share of the top 5 with the question's label."""
        hits = self.result.hits[:TOP]
        return sum(self.is_right(rank) for rank in range(len(hits))) / TOP


def write_index_views(photographs: Sequence[Photograph], folder: Path) -> int:
    """Writes each photograph, and enough edited views of each that there are MIN_RECORDS files. Returns the number
    of files. Raises InvalidRequest if no photograph can be read."""
    written = first = 0
    while written < MIN_RECORDS:
        each = -(-(MIN_RECORDS - written) // len(photographs))
        numbers = range(first, first + each)
        more = sum(1 for photo in photographs for _ in write_views(photo, numbers, "index", folder))
        if not more:
            raise InvalidRequest("images: no image can be read; name a folder of photographs")
        written += more
        first += each
    return written


def write_questions(photographs: Sequence[Photograph], folder: Path) -> list[Question]:
    """Writes query images: views of some photographs, edited differently from those in the index."""
    questions = []
    for photograph in take_evenly(list(photographs), QUERY_PHOTOGRAPHS):
        views = write_views(photograph, range(1, QUERIES_EACH + 1), "query", folder)
        questions += [Question(path, photograph.label) for path in views]
    return questions


@contextlib.contextmanager
def cluster(config: ClusterConfig, data: Path) -> Iterator[Supervisor]:
    """Runs a cluster while the block runs. It starts in the background: call `wait_ready` before the first
    request."""
    supervisor = Supervisor(config, data, lambda line: print(line, file=sys.stderr))
    try:
        supervisor.launch()
        yield supervisor
    finally:
        supervisor.stop()


@contextlib.contextmanager
def watched(supervisor: Supervisor) -> Iterator[None]:
    """Restarts processes that die while the block runs."""
    watcher = threading.Thread(target=supervisor.watch, name="supervisor")
    watcher.start()
    try:
        yield
    finally:
        supervisor.ask_to_stop()
        watcher.join()


def ingest(address: str, config_file: Path, folder: Path, report: Path, output: TextIO) -> None:
    """Runs the batch job by its command, as users do. output: receives the job's summary."""
    command = [sys.executable, "-m", "lookalike", "ingest", str(folder), "--collection", COLLECTION]
    command += ["--server", address, "--config", str(config_file), "--report", str(report)]
    if subprocess.run(command, stdout=output, check=False).returncode != 0:
        raise LookalikeError("demo: the batch job failed; see its error above")


def ask(client: Client, questions: Sequence[Question]) -> list[Answered]:
    results = client.search_batch(images=[q.path for q in questions], k=TOP, collection=COLLECTION)
    return [Answered(question, result) for question, result in zip(questions, results, strict=True)]


def fetch_all(client: Client, folder: Path) -> list[StoredRecord]:
    """Fetches every record of the index. A record's key is its file's path below the folder."""
    keys = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    records: list[StoredRecord] = []
    for start in range(0, len(keys), _FETCH_KEYS):
        records += client.get(keys[start : start + _FETCH_KEYS], collection=COLLECTION)
    return records


def count_equal_to_brute_force(client: Client, records: Sequence[StoredRecord], k: int) -> int:
    """Searches RANDOM_QUERIES random codes, and returns how many answers equal those of brute force: the first k
    of all records sorted by (distance, id)."""
    codes = np.frombuffer(b"".join(record.code for record in records), np.uint8).reshape(len(records), -1)
    ids = np.array([record_id(record.key) for record in records], np.uint64)
    queries = np.random.default_rng(0).integers(0, 256, (RANDOM_QUERIES, codes.shape[1]), np.uint8)
    equal = 0
    for start in range(0, len(queries), MAX_BATCH_QUERIES):
        part = queries[start : start + MAX_BATCH_QUERIES]
        results = client.search_batch(codes=[code.tobytes() for code in part], k=k, collection=COLLECTION)
        for query, result in zip(part, results, strict=True):
            expected = [(distance, records[row].key) for distance, row in _brute_force(query, codes, ids)[:k]]
            equal += [(hit.distance, hit.key) for hit in result.hits] == expected
    return equal


def _brute_force(
    query: npt.NDArray[np.uint8], codes: npt.NDArray[np.uint8], ids: npt.NDArray[np.uint64]
) -> list[tuple[int, int]]:
    distances = np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.int64)
    order = np.lexsort((ids, distances))
    return list(zip(distances[order].tolist(), order.tolist(), strict=True))
