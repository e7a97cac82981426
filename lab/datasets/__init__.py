"""Labelled image sets: their images, classes and splits (`labelled`), well-known sets (`named`; COCO's format is
in `coco`), image folders (`folders`), and archives of them (`archives`)."""

from lab.datasets.labelled import LabelledImages
from lab.datasets.named import load_dataset

__all__ = ["LabelledImages", "load_dataset"]
