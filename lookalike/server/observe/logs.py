"""Owns how a server process logs: as text, or as one JSON object per line. Each event is one line, whatever a
client sent, and carries the ids of the requests that it belongs to.

Logs hold names, counts and times: never a record's key, attributes, code or image, nor credentials. Error texts
quote what a client sent, so `without_quotes` removes quotations."""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
from typing import Any, Literal

from lookalike.transport import requests, tracing

PACKAGES = ("lookalike", "shard", "coordinator", "encoder")
# Text in quotation marks, as Python's repr writes it; an apostrophe within a word starts no quotation.
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)} | {10: "\\n", 13: "\\r"}


def start(form: Literal["text", "json"], level: str, process: dict[str, Any]) -> None:
    """Starts to log to standard error. process: fields to add to every JSON line, which identify the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
    logging.getLogger("grpc._cython.cygrpc").addFilter(_quotes_no_metadata)


def _quotes_no_metadata(record: logging.LogRecord) -> bool:
    """Drops gRPC's message about metadata that is not UTF-8: the message would include a malformed API key."""
    return not str(record.msg).startswith("Invalid encoding on")


def without_quotes(text: str) -> str:
    """Returns an error's text without its quotations."""
    return _QUOTED.sub("'…'", text)


class TextFormatter(logging.Formatter):
    """`2026-01-02 03:04:05,678 INFO shard.replication [id] message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        request = requests.current()
        prefix = "" if request is None else f"[{request.id}] "
        record.message = prefix + record.message.translate(_CONTROLS)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per event, with UTC times as in RFC 3339."""

    def __init__(self, process: dict[str, Any]) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
        }
        if (request := requests.current()) is not None:
            line |= {"request_id": request.id, "rpc": request.rpc}
        if (trace_id := tracing.trace_id()) is not None:
            line["trace_id"] = trace_id
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
