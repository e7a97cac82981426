"""Groups of near-duplicates from a cluster, compared with all pairs computed in NumPy."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lookalike import Client, Record
from lookalike.cli.dedup import dedup
from lookalike.jobs.dedup.groups import find_groups, read_snapshot
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.records import MAX_K
from tests.conftest import Cluster

JPEG = b"\xff\xd8\xff" + b"j" * 300
Groups = list[list[str]]


@pytest.fixture(params=["comparisons", "range searches"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How near codes are found. With so few codes, the job would always compare them itself."""
    if request.param == "range searches":
        monkeypatch.setattr("lookalike.jobs.dedup.join.CANDIDATES_PER_CODE", -1)


def near_codes(rng: np.random.Generator, seeds: int, each: int, flips: int) -> np.ndarray:
    """Random codes, each with others around it."""
    bits = np.repeat(rng.integers(0, 2, (seeds, 64), np.uint8), each, axis=0)
    for row in bits:
        row[rng.choice(64, rng.integers(0, flips + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def oracle(codes: np.ndarray, max_distance: int) -> Groups:
    """Connected components, by spreading labels over the matrix of all pairs until nothing changes."""
    near = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2, dtype=np.int64) <= max_distance
    labels = np.arange(len(codes))
    while True:
        spread = np.where(near, labels[None], len(codes)).min(axis=1)
        if (spread == labels).all():
            break
        labels = spread
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups = [sorted(f"k{row}" for row in rows) for rows in members if len(rows) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def store(client: Client, collection: str, codes: np.ndarray) -> None:
    records = [Record(f"k{row}", code=bytes(code)) for row, code in enumerate(codes)]
    client.upsert(records, collection=collection)


def found(client: Client, collection: str, max_distance: int, first_k: int = 100) -> Groups:
    snapshot = read_snapshot(client, client.get_collection(collection), 10)
    done: list[int] = []
    groups = find_groups(client, collection, snapshot, max_distance, done.append, first_k)
    assert done[-1] == len(np.unique(snapshot.codes, axis=0))
    for group in groups:
        assert group.distances[0] == 0
    return [list(group.keys) for group in groups]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("codes_a_hit", [0, 100])
@pytest.mark.parametrize(("max_distance", "first_k"), [(0, 100), (4, 100), (4, 1), (4, 2), (16, 3)])
def test_groups_are_those_of_all_pairs(
    client: Client, collection: str, max_distance: int, first_k: int, codes_a_hit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The groups are the same whether a truncated answer is requested again with a larger k, or its code is
    compared in the client with all others."""
    monkeypatch.setattr("lookalike.jobs.dedup.groups._CODES_A_HIT", codes_a_hit)
    codes = near_codes(np.random.default_rng(max_distance + first_k), 150, 4, 5)
    store(client, collection, codes)
    expected = oracle(codes, max_distance)
    assert found(client, collection, max_distance, first_k) == expected
    assert expected


@pytest.mark.usefixtures("way")
def test_many_equal_codes_and_their_neighbors_form_one_group(client: Client, collection: str) -> None:
    rng = np.random.default_rng(9)
    flood = np.zeros((3_000, 8), np.uint8)
    around = np.packbits(np.eye(64, dtype=np.uint8)[:40], axis=1)
    far = near_codes(rng, 200, 2, 2)
    codes = np.concatenate([flood, around, far])
    store(client, collection, codes)
    groups = found(client, collection, 1, first_k=10)
    assert len(groups[0]) == 3_040
    shifted = [[f"k{int(key[1:]) + 3_040}" for key in group] for group in oracle(far, 1)]
    assert sorted(map(sorted, groups[1:])) == sorted(map(sorted, shifted))


@pytest.mark.usefixtures("way")
def test_more_neighbors_than_one_response_holds_are_all_found(
    client: Client, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_K == 10_000
    monkeypatch.setattr("lookalike.jobs.dedup.groups.MAX_K", 50)
    codes = near_codes(np.random.default_rng(2), 5, 120, 3)
    store(client, collection, codes)
    assert found(client, collection, 6, first_k=5) == oracle(codes, 6)


@pytest.mark.usefixtures("way")
def test_records_changed_during_dedup_are_not_grouped_by_stale_codes(client: Client, collection: str) -> None:
    codes = np.array([[0] * 8, [255] * 8, [15] * 8], np.uint8)
    store(client, collection, codes)
    snapshot = read_snapshot(client, client.get_collection(collection), 10)
    client.upsert([Record("k1", code=bytes(8)), Record("new", code=bytes(8))], collection=collection)
    assert find_groups(client, collection, snapshot, 2) == []


def test_an_empty_collection_has_no_groups(client: Client, collection: str) -> None:
    assert found_none(client, collection) == []
    client.upsert([Record("a", code=bytes(8))], collection=collection)
    assert found(client, collection, 4) == []


def found_none(client: Client, collection: str) -> Groups:
    snapshot = read_snapshot(client, client.get_collection(collection), 10)
    return [list(group.keys) for group in find_groups(client, collection, snapshot, 4)]


class Page(HTMLParser):
    """Parses a page as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_an_unwritable_output_fails_before_the_work_starts(cluster: Cluster, tmp_path: Path) -> None:
    for options in ({"output": tmp_path / "no" / "x.jsonl"}, {"sheet": tmp_path / "no" / "x.html"}):
        with pytest.raises(InvalidRequest, match="cannot be written to"):
            dedup(collection="never-created", server=cluster.address, **options)
    (tmp_path / "kept.jsonl").write_text("before")
    with pytest.raises(NotFound):
        dedup(collection="never-created", server=cluster.address, output=tmp_path / "kept.jsonl")
    assert (tmp_path / "kept.jsonl").read_text() == "before"


def test_the_command_lists_groups_and_escapes_html(
    cluster: Cluster, client: Client, collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\x1b[2J' onload='x"]
    records = [
        Record(key, code=bytes(8), attributes={"</li><script>": "<b>&"}, thumbnail=JPEG if place else None)
        for place, key in enumerate(hostile)
    ]
    client.upsert([*records, Record("far", code=b"\xff" * 8)], collection=collection)
    sheet, lines = tmp_path / "sheet.html", tmp_path / "groups.jsonl"
    dedup(4, collection=collection, server=cluster.address, as_json=True, sheet=sheet)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["records"], summary["groups"], summary["duplicates"]) == (4, 1, 2)
    assert {record["key"] for record in summary["found"][0]["records"]} == set(hostile)
    page = Page(sheet.read_text())
    ours = "html head meta title style body main h1 h2 section ul li img strong br span mark".split()
    assert {tag for tag, _ in page.tags} <= set(ours)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    assert [tag for tag, _ in page.tags].count("mark") == 1
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in pictures)
    assert all(key in page.text for key in hostile)
    assert '{"</li><script>": "<b>&"}' in page.text
    assert not re.search(r"(?:src|href)=.?(?:http|//)", sheet.read_text())
    dedup(4, collection=collection, server=cluster.address, output=lines)
    assert [json.loads(line)["size"] for line in lines.read_text().splitlines()] == [3]
    dedup(4, collection=collection, server=cluster.address)
    assert "\x1b" not in capsys.readouterr().out
    with pytest.raises(InvalidRequest, match="max-distance: is 64"):
        dedup(64, collection=collection, server=cluster.address)
