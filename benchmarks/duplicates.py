"""Near-duplicates: how many copies of pictures, made by the edits of `encoder.copies.edits`, are found among all
other pictures, by the methods of `lookalike evaluate --task duplicates` and by `lookalike dedup`.

A pair of a copy and another picture is false, unless both originals are listed in one line of SAME: collections
contain copies of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import cpu_count
from PIL import Image

from encoder.copies import checks
from encoder.copies.edits import EDITS, edited, saved
from encoder.copies.pictures import opened
from encoder.features import FeatureModel
from encoder.file_facts import facts
from encoder.hashing import drawn
from encoder.model import code_space
from encoder.thumbnails import thumbnail
from lab.demo.photographs import bundled_photographs, write_views
from lab.duplicates import opinion
from lab.duplicates.pictures import Flags, Pictures, describe
from lab.duplicates.run import Plan, Row, compare
from lab.duplicates.separation import by_codes, hamming, shares
from lookalike.cli.dedup import dedup
from lookalike.jobs.dedup.calibration import Calibration
from lookalike.jobs.dedup.turned import find_turned
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.server.config import EncoderConfig

SAME = Path(__file__).with_name("same_pictures.txt")
ORIGINAL = "original"
_ONE_IN = 100_000
_VIEWS_EACH = 4
_QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


def measure(images: Path | None, originals: int | None = None) -> Iterator[dict[str, Any]]:
    """Yields recall at one false pair in 100,000 by method and edit, how well false pairs are predicted, and what
    `dedup` finds without options.

    Args:
        images: A folder or a tar file of pictures; None for views of the bundled photographs.
        originals: How many of the pictures are edited; None for all.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _folder_of(images, folder)
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in _ENDINGS)
        keys = [path.relative_to(source).as_posix() for path in paths]
        network = FeatureModel("tf_efficientnet_lite0", None, "pooled", decode_threads=cpu_count())
        pictures = describe(keys, [path.as_uri() for path in paths], originals, network)
        pictures = dataclasses.replace(pictures, group=opinion.listed_groups(keys, SAME))
        assert not pictures.unreadable, "rows of pictures are those of paths"
        yield {"pictures": len(keys), "copies": len(pictures.origin), "edits": len(EDITS)}
        plan = Plan(["lsh", "itq"], [256, 1_024], [_ONE_IN])
        for row in compare(pictures, network, plan, lambda *_: None):
            yield _figures(row)
        yield _turned(pictures, paths)
        yield _predicted(pictures, network)
        yield from _by_dedup(pictures, paths, folder)


def _folder_of(images: Path | None, folder: Path) -> Path:
    if images is None:
        for photograph in bundled_photographs():
            list(write_views(photograph, range(_VIEWS_EACH), "bench", folder / "views"))
        return folder / "views"
    if images.is_dir():
        return images
    with tarfile.open(images) as archive:
        archive.extractall(folder / "tar", filter="data")
    return folder / "tar"


def _figures(row: Row) -> dict[str, Any]:
    return {
        "method": row.method, "bits": row.bits, "below": row.below.get(_ONE_IN),
        "recall": _percent(row.share or 0),
        "by_edit": {edit: _percent(share) for edit, share in row.by_edit.items()},
        "false_pairs": row.false_pairs, "same_code": row.equal, "note": row.note,
    }  # fmt: skip


def _percent(share: float) -> float:
    return round(100 * float(share), 1)


def _turned(pictures: Pictures, paths: Sequence[Path]) -> dict[str, Any]:
    """Recall and false pairs of pictures turned by quarters, with `--orientations`: pairs by perceptual hashes, of
    which the second opinion accepts some."""
    started = time.perf_counter()
    chosen = np.unique(pictures.origin)
    uprights = [opened(paths[each].read_bytes()) for each in chosen.tolist()]
    turned = [saved(upright.transpose(turn)) for upright in uprights for turn in _QUARTERS]
    hashes = [int(facts(file).phash, 16) for file in (*(path.read_bytes() for path in paths), *turned)]
    origin = np.concatenate([np.arange(len(paths)), np.repeat(chosen, len(_QUARTERS))])
    left, right = find_turned(np.array(hashes, np.uint64))
    details = [
        *pictures.originals.details, *(checks.describe_file(thumbnail(io.BytesIO(file))) for file in turned),
    ]  # fmt: skip
    is_copy = np.array(
        [
            checks.is_copy(details[one], details[other], any_orientation=True)
            for one, other in zip(left.tolist(), right.tolist(), strict=True)
        ]
    )
    is_own = (left < len(paths)) & (origin[right] == left)
    false = int((is_copy & (pictures.group[origin[left]] != pictures.group[origin[right]])).sum())
    return {
        "method": "turned copies, with orientations", "copies": len(turned), "pairs": len(left),
        "recall_of_candidates": _percent(is_own.sum() / len(turned)),
        "recall": _percent((is_own & is_copy).sum() / len(turned)),
        "false_pairs": false,
        "false_in_100000": round(2e5 * false / (len(hashes) * (len(hashes) - 1)), 3),
        "seconds": round(time.perf_counter() - started),
    }  # fmt: skip


def _predicted(pictures: Pictures, network: FeatureModel) -> dict[str, Any]:
    """Predicted pairs of different originals, and those counted."""
    hashing = drawn(network.width, opinion.CANDIDATE_BITS, 0)
    codes = hashing.codes(pictures.originals.features)
    own = by_codes(pictures, codes, hashing.codes(pictures.copies.features)).own
    calibration: Calibration = opinion.calibrate(pictures, codes, own, code_space(network.backbone, hashing))
    left, right = np.triu_indices(len(codes), 1)
    is_false = pictures.group[left] != pictures.group[right]
    apart = hamming(codes, codes)[left, right][is_false]
    counts = np.bincount(apart, minlength=calibration.wide_distance + 1).cumsum()
    rows = {
        distance: (calibration.false_pairs(distance), int(counts[distance]))
        for distance in range(calibration.wide_distance + 1)
        if counts[distance] >= 10
    }
    ratios = [predicted / counted for predicted, counted in rows.values()]
    return {
        "predicted_to_counted": [round(min(ratios), 2), round(max(ratios), 2)] if ratios else [],
        "chosen_distance": calibration.max_distance,
        "false_pairs": {each: [round(rows[each][0], 1), rows[each][1]] for each in list(rows)[::6]},
    }


def _by_dedup(pictures: Pictures, paths: Sequence[Path], folder: Path) -> Iterator[dict[str, Any]]:
    """Ingests originals and copies, and runs `dedup` on them, without options and with `--orientations`."""
    copies = folder / "copies"
    edited_rows = set(pictures.origin.tolist())
    for number, path in enumerate(paths):
        picture = opened(path.read_bytes())
        _write(copies / f"{number:06}" / f"{ORIGINAL}.jpg", saved(picture, 95))
        for edit in EDITS if number in edited_rows else ():
            name = f"{edit.replace(' ', '-')}.jpg"
            _write(copies / f"{number:06}" / name, saved(edited(edit, picture, number)))
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
        "recall": _percent(is_found.mean()), **_by_edit(pictures, is_found), "groups": len(result["found"]),
        "pure_groups": _percent(pure / groups), "records_in_the_right_group": _percent(clean / max(1, members)),
    }  # fmt: skip


def _by_edit(pictures: Pictures, is_found: Flags) -> dict[str, Any]:
    return {"by_edit": {edit: _percent(share) for edit, share in shares(pictures, is_found).items()}}


def _origin_and_edit(key: str) -> tuple[int, str]:
    path = Path(key)
    return int(path.parent.name), path.stem
