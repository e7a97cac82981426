"""Owns what an evaluation will cost, before its work: images, networks, rows, time and disk. The time comes from a
short measurement: of the first images, and of a ranking and a fit on random vectors of the data set's shape."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from encoder.features import BATCH_IMAGES, FeatureModel
from encoder.hashing import Features
from encoder.progress import duration
from lab import feature_cache
from lab.datasets import LabelledImages
from lab.evaluation import systems
from lab.evaluation.plan import Plan
from lab.evaluation.preparation import Workspace
from lab.evaluation.rankings import judge
from lab.evaluation.sweep import row_count
from lab.evaluation.systems import Split
from lab.evaluation.through_cluster import row_count as cluster_row_count
from lab.fitting import ITQ, PCA
from lab.training.recipes import CSQ
from lookalike.model.errors import CannotStart, InvalidRequest

_FIRST_IMAGES, _FIRST_SECONDS = 3 * BATCH_IMAGES, 2.0
# The largest vectors and samples that are measured. The time for larger ones is in proportion.
_SAMPLE, _WIDTH, _BITS, _QUERIES = 1_000, 2_048, 128, 16
_INDEXED = 20_000
# The methods whose fit takes longer with more images.
_OF_SAMPLE = (PCA, ITQ, CSQ)


@dataclasses.dataclass(slots=True)
class Cost:
    """What the work will cost.

    Attributes:
        networks: The number of networks whose weights are there.
        rows: All rows, those that are measured already included.
        to_encode: How many images are not in the cache, counted once for each network and layer.
        encode_seconds: How long to encode them.
        measure_seconds: How long to measure the rows, without those through a cluster.
        disk_bytes: The size of the features to cache.
    """

    networks: int = 0
    rows: int = 0
    to_encode: int = 0
    encode_seconds: float = 0.0
    measure_seconds: float = 0.0
    disk_bytes: int = 0


def estimate(plan: Plan, workspace: Workspace, may_lack_weights: bool) -> Cost:
    """Measures for a few seconds what a plan will cost.

    Args:
        plan: What to evaluate.
        workspace: Loads the data set and the networks.
        may_lack_weights: Whether a network without weights is skipped.

    Raises:
        CannotStart: If a network cannot be loaded.
    """
    images, cost = workspace.dataset(plan.seeds[0]), Cost()
    has_codes = images.vectors is not None and images.vectors.codes is not None
    for model in plan.models:
        speed = 0.0
        try:
            for layer in plan.layers:
                width, speed = _add_encoding(cost, plan, workspace, images, model, layer, speed)
                rows = row_count(plan, width > 0, has_codes)
                cost.rows += (rows + cluster_row_count(plan)) * len(plan.seeds)
                cost.measure_seconds += _measure_seconds(plan, images, width, rows) * len(plan.seeds)
            cost.networks += 1
        except CannotStart:
            if not may_lack_weights:
                raise
    return cost


def lines_of(cost: Cost, plan: Plan, images: LabelledImages, cache: Path, earlier: int) -> list[str]:
    """What the work will cost, as lines of text. earlier: the number of rows that are measured already."""
    kind = "images" if images.vectors is None else "records"
    networks = f"{_count(cost.networks, 'network')}, " if images.vectors is None else ""
    runs = f"{networks}{_count(len(plan.seeds), 'seed')}, {_count(cost.rows, 'row')}"
    lines = [
        f"{images.name}: {len(images.indexed):,} {kind} to index, {len(images.queries):,} to query with,"
        f" {len(images.classes):,} classes; {runs}"
    ]
    left = max(0, cost.rows - earlier)
    if earlier:
        lines.append(f"measured by an earlier run: {_count(earlier, 'row')}; left: {left:,}")
    seconds = cost.measure_seconds * left / max(1, cost.rows)
    searched = ", without the searches of the cluster" if plan.has_cluster else ""
    measuring = f"measuring about {duration(seconds)}{searched}"
    if not cost.to_encode:
        return [*lines, f"estimated time: nothing to encode; {measuring}"]
    lines.append(
        f"estimated time: encoding {cost.to_encode:,} images about {duration(cost.encode_seconds)}; {measuring}"
    )
    free = shutil.disk_usage(cache).free
    where = feature_cache.folder_in(cache)
    lines.append(f"disk: {_size(cost.disk_bytes)} of features in {where}, where {_size(free)} are free")
    return lines


def _add_encoding(
    cost: Cost, plan: Plan, workspace: Workspace, images: LabelledImages, model: str, layer: str, speed: float
) -> tuple[int, float]:
    """Adds what it costs to encode by one network and layer. Returns the width of the features, and the network's
    images a second, which is measured unless it is known: the layers differ little."""
    if images.vectors is not None:
        return images.vectors.features.shape[1], 0.0
    network = workspace.network(model, layer)
    if not feature_cache.is_cached(images, network, workspace.cache):
        speed = speed or _images_a_second(network, images)
        # With a limit, each seed selects other images.
        count = len(images.keys) * (1 if plan.limit is None else len(plan.seeds))
        cost.to_encode += count
        cost.encode_seconds += count / speed
        cost.disk_bytes += count * feature_cache.bytes_per_image(network)
    return network.width, speed


def _images_a_second(network: FeatureModel, images: LabelledImages) -> float:
    """Encodes the first images. If there are several batches, the first one is not counted, because it also
    prepares the network."""
    count = max(1, min(_FIRST_IMAGES, len(images.keys) // 4))
    started = time.perf_counter()
    begun, done, first = started, 0, True
    for is_readable, _ in network.stream([functools.partial(images.read, row) for row in range(count)]):
        now = time.perf_counter()
        done += len(is_readable)
        if now - started > _FIRST_SECONDS or done == count:
            break
        if first:
            begun, done, count, first = now, 0, count - len(is_readable), False
    return done / max(1e-6, now - begun)


def _measure_seconds(plan: Plan, images: LabelledImages, width: int, rows: int) -> float:
    """How long it takes to measure the rows of one network, layer and seed."""
    if not rows:
        return 0.0
    random = np.random.default_rng(0)
    indexed, queries = min(len(images.indexed), _INDEXED), min(len(images.queries), _QUERIES)
    narrow = max(1, min(width, _WIDTH))
    vectors, asked = _random(random, indexed, narrow), _random(random, queries, narrow)
    labels = images.labels[images.indexed[:indexed]]
    wanted = images.labels[images.queries[:queries]]

    def rank() -> None:
        judge(lambda part: -(asked[part] @ vectors.T), labels, wanted, plan.k, images.is_multi_label)

    if not (indexed and queries):
        return 0.0
    ranking = _seconds(rank) * len(images.queries) / queries * len(images.indexed) / indexed
    if not width:
        return ranking * rows
    sample = min(indexed, _SAMPLE)
    split = Split(
        vectors[:sample], vectors[:1], labels[:sample], labels[:1], vectors[:sample], labels[:sample], ""
    )
    fitting = sum(
        _fit_seconds(method, split, plan) * (len(images.indexed) / sample if method in _OF_SAMPLE else 1)
        for method in plan.methods
    )
    return ranking * rows + fitting * len(plan.bits) * width / narrow


def _fit_seconds(method: str, split: Split, plan: Plan) -> float:
    bits = min(_BITS, sorted(plan.bits)[len(plan.bits) // 2])
    try:
        return _seconds(lambda: systems.fit(method, split, bits, 0))
    except (InvalidRequest, CannotStart):  # such a method is left out, with its reason, when its turn comes
        return 0.0


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _random(random: np.random.Generator, n: int, width: int) -> Features:
    return random.standard_normal((n, width), np.float32)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
