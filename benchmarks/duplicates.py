"""Near-duplicates: how many copies of pictures, made by the edits of `encoder.copies.edits`, are found among all
other pictures, by perceptual hashes, by the default encoder's codes and features, and by `lookalike dedup`.

A pair of a copy and another picture is false, unless both originals are listed in one line of SAME: collections
contain copies of their own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import multiprocessing
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from more_itertools import chunked
from PIL import Image

from encoder.copies import checks
from encoder.copies.edits import EDITS, edited, saved
from encoder.copies.pictures import opened
from encoder.file_facts import facts
from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from encoder.thumbnails import thumbnail
from lab.demo.photographs import bundled_photographs, write_views
from lookalike.cli.dedup import dedup
from lookalike.jobs.dedup import strangers
from lookalike.jobs.dedup.calibration import Calibration, calibrated
from lookalike.jobs.dedup.candidates import NEAREST
from lookalike.jobs.dedup.turned import find_turned
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.server.config import EncoderConfig

SAME = Path(__file__).with_name("same_pictures.txt")
FALSE_RATE = 1e-5
CALIBRATED = 300
ORIGINAL = "original"
_VIEWS_EACH = 4
_BATCH = 64

Matrix = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Pictures:
    """Originals, and copies of some of them.

    Attributes:
        originals: Files of the originals.
        copies: Files of the copies.
        origin: The original of each copy, int64 (copies,).
        edit: The number of each copy's edit, int64 (copies,).
        group: Equal for originals that are copies of each other, int64 (originals,).
    """

    originals: list[bytes]
    copies: list[bytes]
    origin: npt.NDArray[np.int64]
    edit: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]

    @property
    def is_own(self) -> Matrix:
        """Which original each copy was made of, bool (copies, originals)."""
        return np.arange(len(self.originals)) == self.origin[:, None]

    @property
    def is_false(self) -> Matrix:
        """Which pairs of a copy and an original show different pictures, bool (copies, originals)."""
        different: Matrix = self.group[self.origin][:, None] != self.group
        return different


@dataclasses.dataclass(frozen=True, slots=True)
class Encodings:
    """What the encoder and the hashes make of pictures: codes uint8 (n, 32), unit features float32 (n, width),
    hashes uint8 (n, 8)."""

    codes: Matrix
    features: Matrix
    phash: Matrix
    dhash: Matrix


def measure(images: Path | None, originals: int | None = None) -> Iterator[dict[str, Any]]:
    """Yields recall at one false pair in 100,000 by method and edit, how well false pairs are predicted, and what
    `dedup` finds without options.

    Args:
        images: A folder or a tar file of pictures; None for views of the bundled photographs.
        originals: How many of the pictures are edited; None for all.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = _pictures(images, originals, folder)
        yield {"pictures": len(pictures.originals), "copies": len(pictures.copies), "edits": len(EDITS)}
        model = EncoderModel(EncoderSpec("tf_efficientnet_lite0", 256, 0), cpu_count())
        first, second = (encoded(model, files) for files in (pictures.originals, pictures.copies))
        yield from _by_threshold(pictures, first, second)
        apart = distances(second.codes, first.codes)
        calibration = _calibration(model, pictures, first.codes, apart)
        yield from _by_opinion(pictures, apart, calibration.wide_distance)
        yield _turned(pictures)
        yield from _predicted(pictures, first.codes, calibration)
        yield from _by_dedup(pictures, folder)


def _pictures(images: Path | None, originals: int | None, folder: Path) -> Pictures:
    source = images
    if images is None:
        source = folder / "views"
        for photograph in bundled_photographs():
            list(write_views(photograph, range(_VIEWS_EACH), "bench", source))
    elif images.is_file():
        source = folder / "tar"
        with tarfile.open(images) as archive:
            archive.extractall(source, filter="data")
    assert source is not None
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in endings)
    files = [path.read_bytes() for path in paths]
    chosen = np.sort(np.random.default_rng(0).permutation(len(paths))[:originals]).tolist()
    copies = [saved(edited(edit, opened(files[each]), each)) for each in chosen for edit in EDITS]
    origin = np.repeat(np.array(chosen, np.int64), len(EDITS))
    edit = np.tile(np.arange(len(EDITS)), len(chosen))
    return Pictures(files, copies, origin, edit, _groups(paths))


def _groups(paths: Sequence[Path]) -> npt.NDArray[np.int64]:
    lines = [line.split() for line in SAME.read_text().splitlines() if not line.startswith("#")]
    line_of = {name: -1 - number for number, line in enumerate(lines) for name in line}
    return np.array([line_of.get("/".join(path.parts[-2:]), place) for place, path in enumerate(paths)], np.int64)


def encoded(model: EncoderModel, files: Sequence[bytes]) -> Encodings:
    """Encodes and hashes pictures."""
    found = [each for part in chunked(files, _BATCH) for each in model.encode(part, include_features=True)]
    features = np.array([each.features for each in found])
    hashes = [
        [np.packbits(make(image).hash.ravel()) for make in (imagehash.phash, imagehash.dhash)]
        for image in map(opened, files)
    ]
    return Encodings(
        np.array([np.frombuffer(each.code, np.uint8) for each in found]),
        features / np.linalg.norm(features, axis=1, keepdims=True),
        *np.array(hashes).swapaxes(0, 1),
    )


def distances(left: Matrix, right: Matrix) -> Matrix:
    """The distances of codes, uint8 (n, bytes) each, in bits: uint16 (n left, n right)."""
    found = np.zeros((len(left), len(right)), np.uint16)
    for word in range(left.shape[1] // 8):
        part = slice(8 * word, 8 * word + 8)
        one, other = (np.ascontiguousarray(codes[:, part]).view(np.uint64) for codes in (left, right))
        found += np.bitwise_count(one ^ other.T)
    return found


def _by_threshold(pictures: Pictures, first: Encodings, second: Encodings) -> Iterator[dict[str, Any]]:
    """Recall of single distances, each at the largest threshold that lets one false pair in 100,000 pass."""
    methods = {
        "pHash": distances(second.phash, first.phash),
        "dHash": distances(second.dhash, first.dhash),
        "code, 256 bits": distances(second.codes, first.codes),
        "cosine": 1 - second.features @ first.features.T,
    }
    for name, apart in methods.items():
        false = np.sort(apart[pictures.is_false])
        limit = false[int(FALSE_RATE * len(false))]
        # Pairs at the limit itself would let more than the allowed false pairs pass.
        is_found = apart[pictures.is_own] < limit
        yield {"method": name, "below": round(float(limit), 4), **_recalls(pictures, is_found)}


def _recalls(pictures: Pictures, is_found: Matrix) -> dict[str, Any]:
    by_edit = {edit: _percent(is_found[pictures.edit == number].mean()) for number, edit in enumerate(EDITS)}
    return {"recall": _percent(is_found.mean()), "by_edit": by_edit}


def _percent(share: float) -> float:
    return round(100 * float(share), 1)


def _calibration(model: EncoderModel, pictures: Pictures, codes: Matrix, apart: Matrix) -> Calibration:
    """What `lookalike calibrate` measures, from the copies of `CALIBRATED` pictures."""
    chosen = np.isin(pictures.origin, np.unique(pictures.origin)[:CALIBRATED])
    own = apart[pictures.is_own]
    copies = {edit: own[chosen & (pictures.edit == number)].tolist() for number, edit in enumerate(EDITS)}
    sampled = strangers.sample(codes)
    left, right, between = strangers.pairs_to_check(codes, sampled)
    described = {row: _details(pictures.originals[row]) for row in np.unique([left, right]).tolist()}
    differ = [
        not checks.is_copy(described[one], described[other], any_orientation=True)
        for one, other in zip(left.tolist(), right.tolist(), strict=True)
    ]
    shares = strangers.checked_shares(sampled, between, np.array(differ, np.bool_))
    return calibrated(model.space, sampled, shares, copies, {})


def _by_opinion(pictures: Pictures, apart: Matrix, wide: int) -> Iterator[dict[str, Any]]:
    """Recall and false pairs of the second opinion about each copy's nearest originals."""
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :NEAREST]
    candidates = [row[apart[copy, row] <= wide] for copy, row in enumerate(nearest)]
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, _start, (pictures.originals,)) as pool:
        verdicts = list(pool.map(_accepted, pictures.copies, candidates, chunksize=50))
    for name, column in (("second opinion", 0), ("second opinion, with orientations", 1)):
        is_found = np.zeros(apart.shape, np.bool_)
        for copy, (row, verdict) in enumerate(zip(candidates, verdicts, strict=True)):
            is_found[copy, row] = verdict[:, column]
        false = int((is_found & pictures.is_false).sum())
        yield {
            "method": name, "wide_distance": wide, "false_pairs": false,
            "false_in_100000": round(1e5 * false / int(pictures.is_false.sum()), 2),
            **_recalls(pictures, is_found[pictures.is_own]),
            "pairs": sum(map(len, candidates)), "seconds": round(time.perf_counter() - started),
        }  # fmt: skip


_originals: list[checks.Details] = []


def _start(files: Sequence[bytes]) -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    _originals.extend(map(_details, files))


def _details(file: bytes) -> checks.Details:
    return checks.describe_file(thumbnail(io.BytesIO(file)))


def _accepted(file: bytes, candidates: npt.NDArray[np.int64]) -> Matrix:
    """Whether each candidate is a copy, and whether it is one or a mirrored one, bool (candidates, 2)."""
    details = _details(file)
    mirrored = details.mirrored()
    found = []
    for original in (_originals[each] for each in candidates.tolist()):
        is_copy = checks.is_copy(details, original)
        found.append((is_copy, is_copy or checks.is_copy(mirrored, original)))
    return np.array(found, np.bool_).reshape(-1, 2)


def _turned(pictures: Pictures) -> dict[str, Any]:
    """Recall and false pairs of pictures turned by quarters, with `--orientations`: pairs by perceptual hashes, of
    which the second opinion accepts some."""
    started = time.perf_counter()
    chosen = np.unique(pictures.origin)
    quarters = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    uprights = [opened(pictures.originals[each]) for each in chosen.tolist()]
    turned = [saved(upright.transpose(turn)) for upright in uprights for turn in quarters]
    files = [*pictures.originals, *turned]
    origin = np.concatenate([np.arange(len(pictures.originals)), np.repeat(chosen, len(quarters))])
    left, right = find_turned(np.array([int(facts(file).phash, 16) for file in files], np.uint64))
    described = {row: _details(files[row]) for row in np.unique([left, right]).tolist()}
    is_copy = np.array(
        [
            checks.is_copy(described[one], described[other], True)
            for one, other in zip(left.tolist(), right.tolist(), strict=True)
        ]
    )
    is_own = (origin[left] == left) & (origin[right] == left)
    is_false = pictures.group[origin[left]] != pictures.group[origin[right]]
    false = int((is_copy & is_false).sum())
    return {
        "method": "turned copies, with orientations", "copies": len(turned), "pairs": len(left),
        "recall_of_candidates": _percent(is_own.sum() / len(turned)),
        "recall": _percent((is_own & is_copy).sum() / len(turned)),
        "false_pairs": false,
        "false_in_100000": round(2e5 * false / (len(files) * (len(files) - 1)), 3),
        "seconds": round(time.perf_counter() - started),
    }  # fmt: skip


def _predicted(pictures: Pictures, codes: Matrix, calibration: Calibration) -> Iterator[dict[str, Any]]:
    """Predicted pairs of different originals, and those counted."""
    apart = distances(codes, codes)
    left, right = np.triu_indices(len(codes), 1)
    is_false = pictures.group[left] != pictures.group[right]
    counts = np.bincount(apart[left, right][is_false], minlength=calibration.wide_distance + 1).cumsum()
    rows = {}
    for distance in range(calibration.wide_distance + 1):
        if counts[distance] >= 10:
            predicted = calibration.false_pairs(distance)
            rows[distance] = (predicted, int(counts[distance]))
    ratios = [predicted / counted for predicted, counted in rows.values()]
    yield {
        "predicted_to_counted": [round(min(ratios), 2), round(max(ratios), 2)] if ratios else [],
        "chosen_distance": calibration.max_distance,
        "false_pairs": {each: [round(rows[each][0], 1), rows[each][1]] for each in list(rows)[::6]},
    }  # fmt: skip


def _by_dedup(pictures: Pictures, folder: Path) -> Iterator[dict[str, Any]]:
    """Ingests originals and copies, and runs `dedup` on them, without options and with `--orientations`."""
    copies = folder / "copies"
    edits = list(EDITS)
    for number, file in enumerate(pictures.originals):
        _write(copies / f"{number:06}" / f"{ORIGINAL}.jpg", saved(opened(file), 95))
    for origin, edit, file in zip(pictures.origin.tolist(), pictures.edit.tolist(), pictures.copies, strict=True):
        _write(copies / f"{origin:06}" / f"{edits[edit].replace(' ', '-')}.jpg", file)
    config = ephemeral_config(folder / "cluster", 2, EncoderConfig())
    supervisor = Supervisor(config, folder / "cluster", lambda line: print(line, file=sys.stderr))
    try:
        supervisor.launch()
        supervisor.wait_ready()
        address = config.coordinator.listen
        command = [sys.executable, "-m", "lookalike", "ingest", str(copies), "--json", "--server", address]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--dead-letters", str(folder / "dead.jsonl")], stdout=subprocess.PIPE, check=True
        )
        yield {"figure": "ingest", "seconds": round(time.perf_counter() - started)}
        yield {"figure": "calibrate", **_calibrated_by_command(address)}
        for orientations in (False, True):
            started = time.perf_counter()
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                dedup(server=address, as_json=True, orientations=orientations)
            result = json.loads(printed.getvalue())
            yield {
                "figure": "dedup --orientations" if orientations else "dedup", **_judged(pictures, result),
                "pairs": result["pairs"], "seconds": round(time.perf_counter() - started),
            }  # fmt: skip
    finally:
        supervisor.stop()


def _calibrated_by_command(address: str) -> dict[str, Any]:
    from encoder.copies.command import calibrate

    started = time.perf_counter()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        calibrate(server=address, as_json=True)
    made = json.loads(printed.getvalue())
    return {
        "seconds": round(time.perf_counter() - started), "max_distance": made["max_distance"],
        "wide_distance": made["wide_distance"],
    }  # fmt: skip


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def _judged(pictures: Pictures, result: dict[str, Any]) -> dict[str, Any]:
    """Recall of copies, by edit; and the share of groups that show one picture, and of records that show the
    picture that most records of their group show."""
    group_of: dict[tuple[int, str], int] = {}
    pure = clean = members = 0
    for number, group in enumerate(result["found"]):
        found = [_origin_and_edit(record["key"]) for record in group["records"]]
        group_of |= dict.fromkeys(found, number)
        shown = np.unique([pictures.group[origin] for origin, _ in found], return_counts=True)[1]
        pure += len(shown) == 1
        clean += int(shown.max())
        members += len(found)
    edits = [edit.replace(" ", "-") for edit in EDITS]
    is_found = np.array(
        [
            group_of.get((origin, edits[edit]), -1) == group_of.get((origin, ORIGINAL), -2)
            for origin, edit in zip(pictures.origin.tolist(), pictures.edit.tolist(), strict=True)
        ]
    )
    groups = max(1, len(result["found"]))
    return {
        **_recalls(pictures, is_found), "groups": len(result["found"]), "pure_groups": _percent(pure / groups),
        "records_in_the_right_group": _percent(clean / max(1, members)),
    }  # fmt: skip


def _origin_and_edit(key: str) -> tuple[int, str]:
    path = Path(key)
    return int(path.parent.name), path.stem
