"""Owns what an evaluation works on: a data set's features by one network and layer, split into indexed images and
queries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from encoder.features import FeatureModel
from encoder.hashing import Features
from lab.datasets import LabelledImages, load_dataset
from lab.datasets.tables import is_table, load_table
from lab.evaluation.plan import Plan
from lab.evaluation.systems import Codes, Split
from lab.feature_cache import features_of, require_memory
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import record_id

# Copies of the features in memory at once: raw, of unit length, in the raw index, and one temporary.
_COPIES = 4
# The most float64 values that a hash is fitted to: 1.6 GB.
_SAMPLE_VALUES = 200_000_000
_QUERIES_SHOWN = 12

Rows = npt.NDArray[np.int64]


class Progress(Protocol):
    """Called with the name of a phase, how much of it is done, its total, and what is at work."""

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A data set's features by one network and layer, split by a seed. dropped: the number of unreadable images.
    unlabelled: the number of queries without a label, which are excluded."""

    images: LabelledImages
    model: str
    layer: str
    seed: int
    split: Split
    indexed_keys: Sequence[str]
    indexed_rows: Rows
    query_rows: Rows
    dropped: int
    unlabelled: int

    @property
    def shown_queries(self) -> Rows:
        """The positions of the queries on the contact sheet, evenly spread."""
        count = len(self.query_rows)
        return np.unique(np.linspace(0, count - 1, min(_QUERIES_SHOWN, count)).astype(np.int64))


class Workspace:
    """The folders that a run reads, and the data set and network that it loaded last.

    Attributes:
        cache: The folder of cached features.
    """

    def __init__(self, plan: Plan, data: Path, cache: Path, threads: int) -> None:
        """Holds the plan and the folders.

        Args:
            plan: What to evaluate.
            data: The folder of data sets.
            cache: The folder of cached features.
            threads: Threads that decode images.
        """
        self.cache = cache
        self._plan, self._data, self._threads = plan, data, threads
        self.dataset = functools.lru_cache(maxsize=1)(self._load_dataset)
        self.network = functools.lru_cache(maxsize=1)(self._load_network)

    def _load_dataset(self, seed: int) -> LabelledImages:
        """Loads the data set, split by a seed. Raises InvalidRequest or CannotStart."""
        plan = self._plan
        if is_table(plan.dataset):
            return load_table(plan.dataset, plan.columns, plan.code_format, seed, plan.limit)
        return load_dataset(plan.dataset, data=self._data, seed=seed, limit=plan.limit)

    def _load_network(self, model: str, layer: str) -> FeatureModel:
        """Loads a network. Raises CannotStart."""
        return FeatureModel(model, self._plan.weights, layer, decode_threads=self._threads)


def prepare(plan: Plan, model: str, layer: str, seed: int, workspace: Workspace, progress: Progress) -> Prepared:
    """Loads a data set, encodes it or reads its features from the cache, and splits it.

    Args:
        plan: What to evaluate.
        model: The network; of a table, the column of features or codes.
        layer: The layer that gives the features.
        seed: Seed of the split.
        workspace: Loads the data set and the network.
        progress: Called with the number of images that are encoded.

    Raises:
        InvalidRequest: If the data set is invalid, or has no images to index, query with or fit to.
        CannotStart: If the data set or the model is missing.
    """
    images = workspace.dataset(seed)
    features, made_by = _features(images, model, layer, workspace, progress)
    readable = ~np.isnan(features).any(axis=1) if images.vectors else ~np.isnan(features[:, 0])
    if images.vectors is not None and images.vectors.code_is_valid is not None:
        readable &= images.vectors.code_is_valid
    indexed, queries = (rows[readable[rows]] for rows in (images.indexed, images.queries))
    dropped = len(images.indexed) + len(images.queries) - len(indexed) - len(queries)
    # No image is relevant to a query without a label.
    unlabelled = int((~images.labels[queries].any(axis=1)).sum())
    queries = queries[images.labels[queries].any(axis=1)]
    require_memory((len(indexed) + len(queries)) * features.shape[1] * 4 * _COPIES, images.name, layer)
    labels = images.labels
    indexed = np.array(sorted(indexed, key=lambda row: (record_id(images.keys[row]), images.keys[row])), np.int64)
    sample = indexed
    if plan.unseen:
        hidden = _hidden_classes(images, plan.unseen, seed)
        sample = indexed[~images.labels[indexed][:, hidden].any(axis=1)]
        indexed, queries = (rows[images.labels[rows][:, hidden].any(axis=1)] for rows in (indexed, queries))
        # An image is relevant only by its hidden classes, not by other classes that it has.
        labels = images.labels & np.isin(np.arange(len(images.classes)), hidden)
    if not (len(indexed) and len(queries) and len(sample)):
        raise InvalidRequest(f"dataset: {images.name} leaves no images to index or to query with; use more images")
    step = max(1, -(-len(sample) * features.shape[1] // _SAMPLE_VALUES))
    sample = np.sort(sample)[::step]

    def take(rows: Rows) -> Features:
        return np.array(features[rows], np.float32)

    codes = None
    if images.vectors is not None and images.vectors.codes is not None:
        stored = images.vectors.codes
        codes = Codes(images.vectors.code_column, stored[indexed], stored[queries])
    split = Split(
        take(indexed), take(queries), labels[indexed], labels[queries],
        take(sample), images.labels[sample], made_by, codes,
    )  # fmt: skip
    keys = [images.keys[row] for row in indexed]
    return Prepared(images, model, layer, seed, split, keys, indexed, queries, dropped, unlabelled)


def _features(
    images: LabelledImages, model: str, layer: str, workspace: Workspace, progress: Progress
) -> tuple[npt.NDArray[np.floating], str]:
    """Returns the features of all images, (n, width), with NaN for unreadable ones, and what computed them."""
    if images.vectors is not None:
        return images.vectors.features, f"column {model}"
    network, done = workspace.network(model, layer), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(f"features of {model}, {layer}", done, len(images.keys))

    return features_of(images, network, workspace.cache, count), str(network)


def _hidden_classes(images: LabelledImages, share: float, seed: int) -> npt.NDArray[np.int64]:
    count = len(images.classes)
    hidden = max(1, round(share * count))
    if hidden >= count:
        raise InvalidRequest(f"unseen: {share} leaves no class to learn from; use a smaller share")
    return np.sort(np.random.RandomState(seed).permutation(count)[:hidden])
