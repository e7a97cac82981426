#!/usr/bin/env bash
# One would guess: copies of one code in a binary HNSW index cost memory and time, but the other records are found as
# before: a search for a stored code, with 64 candidates, finds that code.
# What happens (faiss-cpu 1.15.1, usearch 2.26.6): of 3,000 random 256-bit codes, both libraries find each one. With
# copies of one more code among them, they lose the others, although no search is about the copied code: with 5,000
# copies, 3 of 10 stored codes are not found in faiss and 8 of 10 in usearch (the mean of three orders of insertion; it
# depends on the order), and nothing reports it.
# 99 % of the copies link to other copies only (printed from faiss' graph), so they form an island: a search that enters
# it sees no way out, and many codes have no links that lead to them. The flat index finds all codes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check faiss-cpu==1.15.1 usearch==2.26.6 numpy==2.4.6
venv/bin/python - <<'P'
import importlib.metadata

import faiss
import numpy as np
from usearch.index import Index, MetricKind, ScalarKind

print("faiss", faiss.__version__, "usearch", importlib.metadata.version("usearch"))
BITS, STORED, ASKED = 256, 3000, 500
faiss.omp_set_num_threads(1)
random = np.random.default_rng(2)
codes = random.integers(0, 256, (STORED, BITS // 8), dtype=np.uint8)
copied = random.integers(0, 256, (1, BITS // 8), dtype=np.uint8)


def in_faiss(rows, is_copy):
    index = faiss.IndexBinaryHNSW(BITS, 32)
    index.hnsw.efConstruction, index.hnsw.efSearch = 128, 64
    index.add(rows)
    distances, _ = index.search(codes[:ASKED], 1)
    links, offsets = (faiss.vector_to_array(part) for part in (index.hnsw.neighbors, index.hnsw.offsets))
    of_row = [links[start : start + index.hnsw.nb_neighbors(0)] for start in offsets[:-1]]
    closed = [is_copy[of_row[row][of_row[row] >= 0]].all() for row in np.flatnonzero(is_copy)]
    return float((distances == 0).mean()), float(np.mean(closed)) if closed else 0.0


def in_usearch(rows):
    index = Index(
        ndim=BITS, metric=MetricKind.Hamming, dtype=ScalarKind.B1,
        connectivity=16, expansion_add=128, expansion_search=64,
    )
    index.add(np.arange(len(rows)), rows, threads=1)
    distances = index.search(codes[:ASKED], 1, threads=1).distances
    return float((np.asarray(distances) == 0).mean())


def flat(rows):
    index = faiss.IndexBinaryFlat(BITS)
    index.add(rows)
    distances, _ = index.search(codes[:ASKED], 1)
    return float((distances == 0).mean())


def measure(copies, seed):
    order = np.random.default_rng(seed).permutation(STORED + copies)
    rows = np.vstack([codes, np.repeat(copied, copies, axis=0)])[order]
    found, closed = in_faiss(rows, order >= STORED)
    return found, in_usearch(rows), flat(rows), closed


means = {}
for copies, orders in ((0, 1), (1000, 3), (5000, 3)):
    means[copies] = np.mean([measure(copies, seed) for seed in range(orders)], axis=0)
    print(
        f"{copies} copies of one code: share of other codes found: faiss HNSW %.2f, usearch %.2f, flat %.2f;"
        " copies that link to copies only: %.3f" % tuple(means[copies])
    )
assert min(means[0][:2]) >= 0.99
assert max(means[5000][:2]) < 0.9, "duplicates no longer hide the other records"
assert all(values[2] == 1 for values in means.values()) and means[5000][3] > 0.9
P
