#!/usr/bin/env bash
# One would guess: numba compiles a loop over uint64 codes to what NumPy computes on the same values, since numba follows
# NumPy's types and NumPy 2 keeps uint64 when a Python integer joins (code + 1, code ^ 1, code // 2).
# What happens (numba 0.68.1, NumPy 2.4.6): for a single uint64, numba types `code ^ 1`, `code + 1`, `code // 2` and
# `code % 10` as int64, so codes with the highest bit come out negative, and a comparison after that is wrong: the
# compiled function and the same function in Python count different rows. Written as an expression on the array,
# `codes + 1` is float64 in numba, a third answer, which loses the low 11 bits. Stored into a uint64 array, the sum is
# right again, which hides the fault from a test that looks at stored values. With np.uint64(1), all agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > probe.py <<'P'
import numba
import numpy as np

print("numba", numba.__version__, "numpy", np.__version__)
codes = np.array([2**63 + 1, 2**64 - 5, 7], np.uint64)
limit = np.uint64(2**63)


@numba.njit
def scalar(code):
    return code ^ 1, code + 1, code // 2, code % 10


@numba.njit
def whole(codes):
    return codes + 1


@numba.njit
def stored(codes):
    out = np.empty_like(codes)
    for row in range(len(codes)):
        out[row] = codes[row] + 1
    return out


@numba.njit
def above(codes, limit):
    count = 0
    for code in codes:
        if code + 1 > limit:
            count += 1
    return count


@numba.njit
def above_typed(codes, limit):
    count = 0
    for code in codes:
        if code + np.uint64(1) > limit:
            count += 1
    return count


def show(label, compiled, python):
    print(f"{label}: numba {compiled}, Python with NumPy {python}")
    return compiled, python


compiled, python = show(
    "(c ^ 1, c + 1, c // 2, c % 10) of 2**64 - 5", scalar(codes[1]), tuple(map(int, scalar.py_func(codes[1])))
)
assert compiled == (-6, -4, -3, 5) and python == (2**64 - 6, 2**64 - 4, 2**63 - 3, 1)
compiled, python = show("codes + 1", whole(codes), whole.py_func(codes))
assert compiled.dtype == np.float64 and python.dtype == np.uint64
compiled, python = show("stored codes + 1", stored(codes), stored.py_func(codes))
assert np.array_equal(compiled, python)
assert show("rows with code + 1 > 2**63", above(codes, limit), above.py_func(codes, limit)) == (0, 2)
assert show("the same with np.uint64(1)", above_typed(codes, limit), above_typed.py_func(codes, limit)) == (2, 2)
P
venv/bin/python probe.py
