"""Owns the contact sheet of groups of near-duplicates: one self-contained HTML file. Keys and attributes are
untrusted text: everything in the page is escaped, and its content security policy lets it run no script and load
nothing."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence

from lookalike.jobs.dedup.groups import Group
from lookalike.model.records import StoredRecord
from lookalike.model.thumbnails import format_of

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Near-duplicates</title>
<style>
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 2rem; }
ul { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0; }
li { width: 192px; overflow-wrap: anywhere; font-size: .8rem; }
img, .none { display: grid; place-items: center; width: 192px; height: 192px; object-fit: contain;
  background: color-mix(in srgb, currentColor 8%, transparent); }
</style>
</head>
<body>
<main>
"""


def page(title: str, groups: Sequence[Group], records: Mapping[str, StoredRecord], shown: int) -> Iterator[str]:
    """Yields the page in pieces. Shows the first `shown` records of each group, without details for those that are
    not in `records`."""
    yield _HEAD
    yield f"<h1>{html.escape(title)}</h1>\n"
    for number, group in enumerate(groups, 1):
        yield f"<section>\n<h2>Group {number}: {len(group.keys):,} records</h2>\n<ul>\n"
        for key, distance in list(zip(group.keys, group.distances, strict=True))[:shown]:
            yield _item(key, distance, records.get(key))
        yield "</ul>\n"
        if len(group.keys) > shown:
            yield f"<p>and {len(group.keys) - shown:,} more</p>\n"
        yield "</section>\n"
    yield "</main>\n</body>\n</html>\n"


def _item(key: str, distance: int, record: StoredRecord | None) -> str:
    attributes = (
        "" if record is None or not record.attributes else json.dumps(record.attributes, ensure_ascii=False)
    )
    return (
        f"<li>{_image(key, record)}<strong>{html.escape(key)}</strong><br>{distance} bits from the first"
        f"<br>{html.escape(attributes[:500])}</li>\n"
    )


def _image(key: str, record: StoredRecord | None) -> str:
    thumbnail = b"" if record is None else record.thumbnail
    if (kind := format_of(thumbnail)) is None:
        return '<span class="none">no thumbnail</span>'
    return f'<img alt="{html.escape(key)}" src="data:image/{kind};base64,{base64.b64encode(thumbnail).decode()}">'
