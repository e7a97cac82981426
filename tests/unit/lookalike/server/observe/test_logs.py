"""Log lines: each is one event, whatever text it contains, with the ids of its requests but not their content."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.model.errors import NotFound
from lookalike.server.observe import logs
from lookalike.transport import requests

PROCESS = {"cluster": "c", "process": "shard", "partition": 3, "replica": 0}
FORGED = 'x\n2026-01-01 00:00:00 INFO shard.node forged\r\u2028{"level": "error"}'


def record(message: str, *arguments: object, failure: Any = None) -> logging.LogRecord:
    return logging.LogRecord("shard.node", logging.WARNING, "node.py", 1, message, arguments, failure)


def in_request(call: Any, *ids: str) -> Any:
    context = contextvars.copy_context()
    context.run(requests.begin, "Scan", ",".join(ids))
    return context.run(call)


def test_json_line_has_time_process_and_request() -> None:
    text = in_request(lambda: logs.JsonFormatter(PROCESS).format(record("%d rows", 7)), "a1", "b2")
    line = json.loads(text)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning", "logger": "shard.node", "message": "7 rows", "request_id": "a1,b2", "rpc": "Scan",
        **PROCESS,
    }  # fmt: skip


def test_exception_is_a_field_of_its_line() -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        text = logs.JsonFormatter(PROCESS).format(record("failed", failure=sys.exc_info()))
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("KeyError: 'gone'")


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(PROCESS), logs.TextFormatter()], ids=["json", "text"])
@given(written=st.text() | st.just(FORGED))
def test_control_characters_start_no_line(formatter: logging.Formatter, written: str) -> None:
    assert len(formatter.format(record("about %s", written)).splitlines()) == 1


@given(key=st.text(min_size=1, max_size=50))
def test_error_is_logged_without_the_key_that_it_quotes(key: str) -> None:
    told = logs.without_quotes(NotFound(f"key: {key!r} is not in collection {'photos'!r}").message)
    assert told == "key: '…' is not in collection '…'"


def test_apostrophe_is_not_a_quotation_mark() -> None:
    text = "data: is another shard's folder; name this shard's own"
    assert logs.without_quotes(text) == text


@pytest.mark.parametrize("sent", [None, "", "has space", 'a"b', "x" * 65, "line\nbreak", ",,"])
def test_invalid_request_id_is_replaced(sent: str | None) -> None:
    made = contextvars.copy_context().run(requests.begin, "Get", sent)
    assert len(made.ids) == 1
    assert made.id != sent
    assert len(made.id) == 16


def test_shared_work_carries_the_ids_of_its_requests_only() -> None:
    origins = [in_request(requests.origin, name) for name in ("a", "b", "a")]
    context = requests.together(origins)
    request = context.run(requests.current)
    assert request is not None
    assert request.ids == ("a", "b")
    assert dict(context.run(requests.metadata))["request-id"] == "a,b"
    assert requests.together([requests.origin()]).run(requests.current) is None
    many = requests.together([in_request(requests.origin, f"r{i}") for i in range(1_000)])
    assert len(many.run(requests.current).ids) == requests.MAX_IDS  # type: ignore[union-attr]
