#!/usr/bin/env bash
# One would guess: 64-bit codes may be stored as signed integers (as SQL's BIGINT must): the bits are the same, so XOR and
# a population count give the same Hamming distance everywhere.
# What happens (NumPy 2.4.6, polars 2.1.0, duckdb 2.0.1): numpy.bitwise_count counts the bits of the absolute value, as
# Python's int.bit_count does. Two codes that differ in the highest bit have a negative XOR, so about half of all
# distances between random codes are wrong, and a code's distance from its complement is 1
# instead of 64. DuckDB and polars count the bits that are stored, so the same column gives other neighbours in NumPy.
# `.view(numpy.uint64)` before the count mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check numpy==2.4.6 polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1
venv/bin/python - <<'P'
import duckdb
import numpy as np
import polars
import pyarrow

print("numpy", np.__version__, "polars", polars.__version__, "duckdb", duckdb.__version__)
random = np.random.default_rng(0)
left, right = random.integers(0, 2**64, (2, 1000), dtype=np.uint64)
right[0] = ~left[0]
true = np.bitwise_count(left ^ right).astype(int)
difference = left.view(np.int64) ^ right.view(np.int64)
codes = pyarrow.table({"difference": difference})
counts = {
    "numpy": np.bitwise_count(difference),
    "python": [int(value).bit_count() for value in difference],
    "polars": polars.Series(difference).bitwise_count_ones().to_numpy(),
    "duckdb": [row[0] for row in duckdb.sql("select bit_count(difference) from codes").fetchall()],
    "numpy, view(uint64)": np.bitwise_count(difference.view(np.uint64)),
}
wrong = {}
for name, values in counts.items():
    error = np.abs(np.asarray(values, int) - true)
    wrong[name] = float((error > 0).mean())
    print(f"{name}: {wrong[name]:.1%} of distances wrong, by up to {error.max()}; a code and its complement: {values[0]}")
assert wrong["numpy"] == wrong["python"] and 0.4 < wrong["numpy"] < 0.6 and counts["numpy"][0] == 1
assert wrong["polars"] == wrong["duckdb"] == wrong["numpy, view(uint64)"] == 0
P
