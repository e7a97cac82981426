"""Results as arrays, as DataFrames and as HTML for notebooks."""

from __future__ import annotations

import base64
import html.parser
import re
import sys
from typing import Any

import numpy as np
import pytest

from lookalike import Coverage, Hit, SearchResult, StoredRecord, StoredRecords
from lookalike.model.errors import InvalidRequest
from lookalike.model.notebook import MAX_TILES
from lookalike.model.records import Timings, record_id

PNG = b"\x89PNG\r\n\x1a\n and the rest"
HOSTILE = "<script>alert('x')</script>\"&"


def result(*hits: Hit) -> SearchResult:
    return SearchResult(list(hits), Coverage(2, 2, 10, 10), True, Timings(1, 2, 3, 6))


HITS = result(
    Hit("a", 3, 0.9, {"label": "cat", "n": 1}), Hit("b", 3, 0.9, {"label": "dog"}), Hit("c", 60, 0.1, {"key": 7})
)
RECORDS = StoredRecords(
    [StoredRecord("a", b"\x01\x02", {"label": "cat"}, 5, PNG), StoredRecord("b", b"\x03\x04", {}, 2**61)]
)


def test_hits_are_arrays() -> None:
    assert HITS.keys == ["a", "b", "c"]
    assert (HITS.ids.dtype, HITS.ids.tolist()) == (np.uint64, [record_id(key) for key in "abc"])
    assert (HITS.distances.dtype, HITS.distances.tolist()) == (np.int64, [3, 3, 60])
    assert (HITS.scores.dtype, HITS.scores.tolist()) == (np.float64, [0.9, 0.9, 0.1])
    empty = result()
    assert (empty.keys, empty.ids.shape, empty.distances.shape) == ([], (0,), (0,))


def test_records_are_a_list_and_arrays() -> None:
    assert isinstance(RECORDS, list)
    assert RECORDS.keys == ["a", "b"]
    assert RECORDS.codes.tolist() == [[1, 2], [3, 4]]
    assert RECORDS.ids.tolist() == [record_id("a"), record_id("b")]
    assert StoredRecords().codes.shape == (0, 0)


def test_a_data_frame_has_a_column_for_each_attribute() -> None:
    frame = HITS.to_pandas()
    assert list(frame.columns) == ["key", "distance", "score", "label", "n", "attributes.key"]
    assert frame["key"].tolist() == ["a", "b", "c"]
    assert frame["label"].tolist()[:2] == ["cat", "dog"]
    assert frame["attributes.key"].tolist()[2] == 7
    assert frame["distance"].dtype == np.int64
    assert list(RECORDS.to_pandas().columns) == ["key", "code", "version", "label"]
    assert len(result().to_pandas()) == 0


def test_missing_pandas_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidRequest, match="to_pandas: pandas is not installed; run pip install pandas"):
        HITS.to_pandas()


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_thumbnails_and_escapes_everything() -> None:
    shown = result(Hit(HOSTILE, 3, 0.9, {HOSTILE: HOSTILE}, PNG), Hit("plain", 4, 0.8, {}, HOSTILE.encode()))
    found = Tags(shown._repr_html_())
    assert {tag for tag, _ in found.tags} <= {"div", "p", "figure", "figcaption", "img", "strong", "br"}
    (image,) = [attributes for tag, attributes in found.tags if tag == "img"]
    assert image["alt"] == HOSTILE
    assert image["src"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert HOSTILE in found.text
    assert "3 bits, score 0.9000" in found.text
    assert not re.search(r"https?:|//|url\(", RECORDS._repr_html_().replace(image["src"], ""))
    assert "2 records" in Tags(RECORDS._repr_html_()).text


def test_html_shows_the_first_hits_of_many() -> None:
    found = Tags(result(*(Hit(f"k{n}", n, 0.5, {}) for n in range(MAX_TILES + 5)))._repr_html_())
    assert sum(tag == "figure" for tag, _ in found.tags) == MAX_TILES
    assert "and 5 more" in found.text
