#!/usr/bin/env bash
# One would guess: `Dataset.to_parquet` of Hugging Face `datasets` writes a self-contained file, as `save_to_disk` and
# `push_to_hub` do: whoever has the file has the pictures.
# What happens (datasets 5.2.0, pyarrow 26.0.1, Pillow 13.0.0): for pictures that are files, to_parquet writes the path
# as it was given, here a relative one, and null for the bytes. save_to_disk of the same data set embeds the bytes and
# keeps the file's name only. Once the pictures are moved, the parquet file loads without a complaint and fails at the
# first picture; the saved folder works. A picture that `map` changed is embedded by both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6
export HF_HUB_OFFLINE=1 HF_HOME="$folder/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'P'
import os

import datasets
import numpy as np
import pyarrow.parquet as parquet
from PIL import Image as Pillow

print("datasets", datasets.__version__)
os.mkdir("pictures")
for number in range(3):
    Pillow.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(f"pictures/{number}.png")
features = datasets.Features({"image": datasets.Image()})
data = datasets.Dataset.from_dict({"image": [f"pictures/{n}.png" for n in range(3)]}, features=features)


def cells(table):
    return [(cell["bytes"] is not None, cell["path"]) for cell in table.column("image").to_pylist()]


data.to_parquet("data.parquet")
data.save_to_disk("saved")
written = cells(parquet.read_table("data.parquet"))
saved = cells(datasets.load_from_disk("saved").with_format("arrow")[:])
data.map(lambda row: {"image": row["image"].resize((4, 4))}).to_parquet("mapped.parquet")
mapped = cells(parquet.read_table("mapped.parquet"))
print("(has bytes, path) in the parquet file: ", written)
print("(has bytes, path) in the saved folder: ", saved)
print("(has bytes, path) in parquet after map:", mapped)
assert written == [(False, f"pictures/{n}.png") for n in range(3)]
assert saved == [(True, f"{n}.png") for n in range(3)]
assert all(has_bytes for has_bytes, _ in mapped)

os.rename("pictures", "moved")
assert datasets.load_from_disk("saved")[0]["image"].size == (8, 8)
loaded = datasets.Dataset.from_parquet("data.parquet")
print("after moving the pictures, the parquet file has", len(loaded), "rows;", end=" ")
try:
    loaded[0]["image"]
except FileNotFoundError as error:
    print("the first picture:", type(error).__name__, error)
else:
    raise AssertionError("the picture was found")
P
