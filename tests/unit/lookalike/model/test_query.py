"""Parts of images, and which records a query starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lookalike import wire
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Query, check_box
from lookalike.v1 import record_pb2
from lookalike.v1 import search_pb2 as pb


def test_boxes_become_numbers() -> None:
    assert check_box((0, 0, 1, 1)) == (0.0, 0.0, 1.0, 1.0)
    assert check_box([np.float32(0.5), 0, np.int64(1), 0.25]) == (0.5, 0.0, 1.0, 0.25)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 1), r"box: is \(0, 0, 1\); give \(x0, y0, x1, y1\)"),
        ("0011", "box: is '0011'; give"),
        ((0, 0, 1.5, 1), "box: x1 is 1.5; use a share of the image's width or height, from 0 to 1"),
        ((-0.1, 0, 1, 1), "box: x0 is -0.1"),
        ((0, float("nan"), 1, 1), "box: y0 is nan"),
        ((0, True, 1, 1), "box: y0 is True"),
        ((0, "0", 1, 1), "box: y0 is '0'"),
        ((0.5, 0, 0.5, 1), "box: x0 0.5 is not below x1 0.5; give x0 < x1 and y0 < y1"),
        ((0, 0.75, 1, 0.25), "box: y0 0.75 is not below y1 0.25"),
    ],
)
def test_anything_else_is_refused(box: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        check_box(box)


def box(*edges: float) -> record_pb2.Box:
    return record_pb2.Box(**dict(zip(("x0", "y0", "x1", "y1"), edges, strict=True)))


def test_queries_with_boxes_and_examples_are_decoded() -> None:
    assert wire.query_from_wire(pb.Query(image=b"i", box=box(0, 0, 0.5, 1))) == Query(
        image=b"i", box=(0, 0, 0.5, 1)
    )
    examples = pb.Examples(
        like=[pb.Example(image=b"i", box=box(0, 0, 0.5, 1)), pb.Example(key="a")],
        not_like=[pb.Example(code=b"c"), pb.Example(key="b")],
    )
    query = wire.query_from_wire(pb.Query(examples=examples))
    assert query.like == (Query(image=b"i", box=(0, 0, 0.5, 1)), Query(key="a"))
    assert query.not_like == (Query(code=b"c"), Query(key="b"))
    assert query.keys == {"a", "b"}
    assert Query(key="a").keys == {"a"}
    assert Query(code=b"c").keys == frozenset()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.Query(key="k", box=box(0, 0, 1, 1)), "box: is set for a key; a box is a part of an image"),
        (pb.Query(image=b"i", box=box(0, 0, 2, 1)), "box: x1 is 2.0"),
        (pb.Query(image=b"i", box=record_pb2.Box()), "box: x0 0 is not below x1 0"),
        (pb.Query(examples=pb.Examples()), "examples: 0 in one request; send 1..100"),
        (pb.Query(examples=pb.Examples(like=[pb.Example()])), r"examples\[0\]: is empty; set an image, a code"),
        (
            pb.Query(
                examples=pb.Examples(
                    like=[pb.Example(key="k")], not_like=[pb.Example(code=b"c", box=box(0, 0, 1, 1))]
                )
            ),
            r"not_like\[0\].box: is set for a code",
        ),
        (
            pb.Query(examples=pb.Examples(like=[pb.Example(key="k")]), box=box(0, 0, 1, 1)),
            "box: is set for examples as a whole",
        ),
        (pb.Query(examples=pb.Examples(like=[pb.Example(key="k")]), projections=b"p"), "query: send projections"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(message: pb.Query, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{text}"):
        wire.query_from_wire(message)
