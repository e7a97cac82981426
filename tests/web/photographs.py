"""Owns a collection of the demo's photographs with thumbnails, as `lookalike ingest` creates it."""

from __future__ import annotations

from pathlib import Path

from encoder.thumbnails import thumbnail
from lookalike import Client, Record


def fill(client: Client, collection: str, folder: Path) -> list[str]:
    """Stores every image below a folder, with its folder as label and a view number. Returns the keys."""
    paths = sorted(folder.rglob("*.jpg"))
    client.create_collection(collection)
    records = [
        Record(
            str(path.relative_to(folder)),
            image=path,
            attributes={"label": path.parent.name, "view": int(path.stem.split("--")[1].split("-")[1])},
            thumbnail=thumbnail(path),
        )
        for path in paths
    ]
    assert client.upsert(records, collection=collection) == len(records)
    return [record.key for record in records]
