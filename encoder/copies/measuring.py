"""Owns the measurement behind a calibration: pictures of the collection are edited, the copies are encoded, and
their codes are compared with the originals'."""

from __future__ import annotations

import collections
import dataclasses
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from joblib import cpu_count
from more_itertools import chunked
from PIL import Image

from encoder.copies import checks
from encoder.copies.checking import check_pairs
from encoder.copies.edits import EDITS, edited, saved
from encoder.copies.pictures import read_picture
from encoder.ingest.target import spec_for
from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from encoder.thumbnails import thumbnail
from lookalike.client.sync_client import Client
from lookalike.jobs.dedup import strangers
from lookalike.jobs.dedup.calibration import DEFAULT_PRECISION, DEFAULT_SHARE, Calibration, calibrated
from lookalike.jobs.dedup.checked import DIFFERENT, UNKNOWN
from lookalike.jobs.dedup.groups import Snapshot
from lookalike.jobs.dedup.join import Report
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection

DEFAULT_SAMPLE = 300
# With this many pictures, a rate of 98 % is known to 3 %, and the second opinion takes a third of the time.
_CHECKED_PICTURES = 100
_KEYS_PER_CALL = 300
_PICTURES_AT_A_TIME = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What edited pictures show. copies: distances of copies from their originals by edit, in bits. checked: the
    share of copies that the second opinion recognises, by edit."""

    copies: Mapping[str, Sequence[int]]
    checked: Mapping[str, float]


def calibrate_collection(
    client: Client,
    collection: Collection,
    snapshot: Snapshot,
    sample: int = DEFAULT_SAMPLE,
    precision: float = DEFAULT_PRECISION,
    share: float = DEFAULT_SHARE,
    report: Report = lambda pictures: None,
) -> Calibration:
    """Calibrates a collection: with edited pictures if an encoder made its codes, else by the distances between
    its codes.

    Args:
        client: A client of the cluster.
        collection: The collection.
        snapshot: Its records.
        sample: How many pictures to edit.
        precision: The target share of true pairs among those found.
        share: The assumed share of records that are a copy of another record.
        report: Called with the number of pictures done so far.
    """
    sampled = strangers.sample(snapshot.codes)
    if not client.get_hash_file(collection.name):
        shares = strangers.estimated_shares(sampled, share)
        return calibrated(collection.code_space, sampled, shares, {}, {}, precision, share)
    pictures = _sampled(client, collection.name, snapshot.keys, sample)
    if not pictures:
        raise InvalidRequest(
            f"calibrate: no picture of {collection.name!r} can be read here: its records have no thumbnails, and"
            " no files where their source.url says; run it where the files are"
        )
    measured = measure(spec_for(client, collection), collection, pictures, report)
    left, right, apart = strangers.pairs_to_check(snapshot.codes, sampled)
    verdicts = check_pairs(client, collection, snapshot, left, right, True)
    is_known = verdicts != UNKNOWN
    shares = strangers.checked_shares(sampled, apart[is_known], verdicts[is_known] == DIFFERENT)
    return calibrated(collection.code_space, sampled, shares, measured.copies, measured.checked, precision, share)


def _sampled(client: Client, collection: str, keys: Sequence[str], sample: int) -> list[Image.Image]:
    """Pictures of the collection, chosen at random. Those that cannot be read are replaced by others."""
    order = np.random.default_rng(0).permutation(len(keys)).tolist()
    pictures: list[Image.Image] = []
    for part in chunked(order, _KEYS_PER_CALL):
        for record in client.get([keys[row] for row in part], collection=collection, include_thumbnails=True):
            if len(pictures) == sample:
                return pictures
            if (picture := read_picture(record)) is not None:
                pictures.append(picture)
        if not pictures:
            break
    return pictures


def measure(
    spec: EncoderSpec,
    collection: Collection,
    pictures: Sequence[Image.Image],
    report: Report = lambda pictures: None,
) -> Measured:
    """Edits pictures and measures how far the copies lie from the originals.

    Args:
        spec: The collection's encoder.
        collection: The collection.
        pictures: Upright RGB pictures.
        report: Called with the number of pictures done so far.

    Raises:
        InvalidRequest: If this machine's encoder is not the collection's.
        CannotStart: If the encoder cannot be loaded.
    """
    threads = cpu_count()
    model = EncoderModel(spec, threads)
    if model.space.fingerprint != collection.code_space.fingerprint:
        raise InvalidRequest(
            f"calibrate: {collection.name!r} was made with other weights of {spec.model} than this machine has;"
            " run lookalike calibrate where its encoder runs"
        )
    distances: dict[str, list[int]] = {edit: [] for edit in EDITS}
    verdicts: dict[str, list[bool]] = collections.defaultdict(list)
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(pictures), _PICTURES_AT_A_TIME)
        parts = [pictures[start : start + _PICTURES_AT_A_TIME] for start in starts]
        # The next part is edited while this one is encoded.
        upcoming = [pool.submit(_copies, picture, number) for number, picture in enumerate(parts[0])]
        for start, following in zip(starts, [*parts[1:], []], strict=True):
            files = [made.result() for made in upcoming]
            upcoming = [
                pool.submit(_copies, picture, start + _PICTURES_AT_A_TIME + number)
                for number, picture in enumerate(following)
            ]
            if start < _CHECKED_PICTURES:
                for found in pool.map(_recognised, files):
                    for edit, is_copy in zip(EDITS, found, strict=True):
                        verdicts[edit].append(is_copy)
            for each in files:
                for edit, distance in zip(EDITS, _distances(model, each), strict=True):
                    distances[edit].append(distance)
            report(start + len(files))
    return Measured(distances, {edit: sum(found) / len(found) for edit, found in verdicts.items()})


def _copies(picture: Image.Image, seed: int) -> list[bytes]:
    """The files of a picture and of its copies by all edits."""
    return [saved(picture, 95), *(saved(edited(edit, picture, seed)) for edit in EDITS)]


def _distances(model: EncoderModel, files: Sequence[bytes]) -> list[int]:
    """The distances of the first file's code from the others', in bits."""
    codes = np.array([np.frombuffer(found.code, np.uint8) for found in model.encode(files)])
    return [int(each) for each in np.bitwise_count(codes[1:] ^ codes[0]).sum(axis=1)]


def _recognised(files: Sequence[bytes]) -> list[bool]:
    cv2.setNumThreads(1)
    original, *copies = (checks.describe_file(thumbnail(io.BytesIO(file))) for file in files)
    return [checks.is_copy(original, copy, any_orientation=True) for copy in copies]
