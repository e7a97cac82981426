"""Owns the contact sheet of groups of near-duplicates: one self-contained HTML file. Keys and attributes are
untrusted text: everything in the page is escaped, and its content security policy lets it run no script and load
nothing."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence

from lookalike.jobs.dedup.keep import Member
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


def page(
    title: str, groups: Sequence[Sequence[Member]], records: Mapping[str, StoredRecord], shown: int
) -> Iterator[str]:
    """Yields the page in pieces. Shows the first `shown` records of each group, without details for those that are
    not in `records`."""
    yield _HEAD
    yield f"<h1>{html.escape(title)}</h1>\n"
    for number, group in enumerate(groups, 1):
        yield f"<section>\n<h2>Group {number}: {len(group):,} records</h2>\n<ul>\n"
        for member in group[:shown]:
            yield _item(member, records.get(member.key))
        yield "</ul>\n"
        if len(group) > shown:
            yield f"<p>and {len(group) - shown:,} more</p>\n"
        yield "</section>\n"
    yield "</main>\n</body>\n</html>\n"


def _item(member: Member, record: StoredRecord | None) -> str:
    attributes = (
        "" if record is None or not record.attributes else json.dumps(record.attributes, ensure_ascii=False)
    )
    return (
        f"<li>{_image(member.key, record)}<strong>{html.escape(member.key)}</strong><br>{_role(member)}"
        f"<br>{_facts(member)}<br>{html.escape(attributes[:500])}</li>\n"
    )


def _role(member: Member) -> str:
    if member.is_kept:
        return "<mark>keep</mark>"
    return "same bytes as the one to keep" if member.is_exact else f"{member.distance} bits from the first key"


def _facts(member: Member) -> str:
    known = []
    if member.width:
        known.append(f"{member.width:,} x {member.height:,} pixels")
    if member.bytes:
        known.append(f"{member.bytes:,} bytes")
    return ", ".join(known)


def _image(key: str, record: StoredRecord | None) -> str:
    thumbnail = b"" if record is None else record.thumbnail
    if (kind := format_of(thumbnail)) is None:
        return '<span class="none">no thumbnail</span>'
    return f'<img alt="{html.escape(key)}" src="data:image/{kind};base64,{base64.b64encode(thumbnail).decode()}">'
