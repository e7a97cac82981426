#!/usr/bin/env bash
# One would guess: SQLite's JSON functions give back a 64-bit perceptual hash as it was written, or fail: JSON has no
# limit on integers, Python writes and reads them exactly, and SQLite keeps the document's text as it is.
# What happens (SQLite 3.54.1 of apsw 3.54.1.0): a hash with the highest bit set does not fit SQLite's signed integer, so
# `->>`, json_extract and json_each turn it into a double, without an error, which drops its low 11 bits: two different
# pictures fall into one group. That is so for half of all hashes, in the same column as hashes that stay exact. `->`,
# which returns JSON text, keeps every digit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check apsw==3.54.1.0
venv/bin/python - <<'P'
import json

import apsw

print("SQLite", apsw.sqlite_lib_version(), "apsw", apsw.apsw_version())
LOW = [0x70E1D2C3B4A59687, 0x70E1D2C3B4A59600]
HIGH = [0xF0E1D2C3B4A59687, 0xF0E1D2C3B4A59600]
database = apsw.Connection(":memory:")
database.execute("create table pictures(document text)")
database.executemany("insert into pictures values (?)", [(json.dumps({"hash": value}),) for value in LOW + HIGH])


def rows(what):
    return database.execute(f"select {what}").fetchall()


values = rows("document->>'$.hash', typeof(document->>'$.hash') from pictures")
print("->> gives", values)
assert values[:2] == [(value, "integer") for value in LOW]
assert values[2:] == [(float(value), "real") for value in HIGH] and float(HIGH[0]) == float(HIGH[1])
assert [row[0] for row in rows("value from pictures, json_each(document)")] == [row[0] for row in values]
assert [row[0] for row in rows("json_extract(document, '$.hash') from pictures")] == [row[0] for row in values]
sizes = sorted(row[0] for row in rows("count(*) from pictures group by document->>'$.hash'"))
print("4 different hashes, sizes of groups by ->>:", sizes)
assert sizes == [1, 1, 2]
text = [int(row[0]) for row in rows("document->'$.hash' from pictures")]
print("-> gives", text)
assert text == LOW + HIGH
P
