#!/usr/bin/env bash
# One would guess: a column of fixed-size lists (8 bytes of code per row, say) becomes a matrix with one row per record
# by flatten() and reshape(-1, n), since every row has the same size, nulls included.
# What happens (pyarrow 26.0.1): flatten() leaves out the lists that are null, so every row after a null moves up and
# gets the next record's code, without an error, because the length still divides by n. `.values` keeps a place for each
# null, but ignores slicing: a slice of a table (a batch, a page) gives the values of the whole column. For a sliced
# column with nulls neither has one row per record; fill_null before flatten() has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
venv/bin/python - <<'P'
import pyarrow as pa
import pyarrow.parquet as parquet

print("pyarrow", pa.__version__)
keys = ["a", "b", "c", "d"]
codes = pa.array([[1, 1], [2, 2], None, [4, 4]], pa.list_(pa.uint8(), 2))
parquet.write_table(pa.table({"key": keys, "code": codes}), "codes.parquet")
table = parquet.read_table("codes.parquet")
assert table.column("code").to_pylist() == codes.to_pylist() and pa.types.is_fixed_size_list(table.column("code").type)


def by_key(table, values):
    matrix = values.to_numpy(zero_copy_only=False).reshape(-1, 2).tolist()
    return matrix, dict(zip(table.column("key").to_pylist(), matrix))


whole = table.column("code").combine_chunks()
matrix, read = by_key(table, whole.flatten())
print("flatten() of 4 records:", matrix, "so key c gets", read["c"])
assert len(matrix) == 3 and read["c"] == [4, 4] and "d" not in read

part = table.slice(1)
sliced = part.column("code").chunk(0)
matrix, read = by_key(part, sliced.values)
print("values of the last 3 records:", len(matrix), "rows, so key b gets", read["b"])
assert len(sliced) == 3 and len(matrix) == 4 and read["b"] == [1, 1]
matrix, read = by_key(part, sliced.flatten())
print("flatten() of the last 3 records:", len(matrix), "rows, so key c gets", read["c"])
assert len(matrix) == 2 and read["c"] == [4, 4]
matrix, read = by_key(part, sliced.fill_null([0, 0]).flatten())
print("fill_null([0, 0]).flatten():", read)
assert read == {"b": [2, 2], "c": [0, 0], "d": [4, 4]}
P
