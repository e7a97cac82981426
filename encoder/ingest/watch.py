"""Owns `lookalike watch`: follows a folder, so that a collection holds the images that the folder holds. The
cluster's encoder encodes them; Ray is not needed here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import typer

from encoder.file_facts import facts_and_picture
from encoder.ingest.descriptions import described
from encoder.ingest.images import read
from encoder.ingest.sources import Source, find_sources
from encoder.ingest.sync import files_of, gone, keeping, remove, url_of
from encoder.ingest.target import get_or_create_encoded
from encoder.options import NewCollectionsEncoder
from encoder.thumbnails import small_jpeg
from lookalike.cli.options import DEFAULT_COLLECTION, DEFAULT_SERVER, CollectionName, Server, connect
from lookalike.client.sync_client import Client
from lookalike.model.errors import InvalidRequest, LookalikeError, PartitionUnavailable
from lookalike.model.records import Collection, Record
from lookalike.transport.rpc import MAX_IMAGE_BYTES


@dataclasses.dataclass(slots=True)
class Pass:
    """What one look at the folder changed. failed: why images could not be stored, by key."""

    stored: int = 0
    removed: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.stored:,} stored", f"{self.removed:,} removed"]
        return ", ".join([*parts, f"{len(self.failed):,} unreadable or refused"] if self.failed else parts)


class Follower:
    """Makes a collection follow a folder, one look at a time.

    Args:
        client: A client of the cluster.
        collection: The collection.
        path: The folder, or a URL.
        include_hidden: Take hidden files and folders of thumbnails too.
        retry_seconds: How long to retry while a partition is unavailable.
    """

    def __init__(
        self, client: Client, collection: Collection, path: str, include_hidden: bool, retry_seconds: float
    ) -> None:
        self._client = client
        self._name = collection.name
        self._path = path
        self._include_hidden = include_hidden
        self._stored = files_of(client, collection, [url_of(path)], retry_seconds)
        # Images that could not be stored are tried again when they change.
        self._failed: dict[str, str] = {}

    def look(self) -> Pass:
        """Stores what is new or changed, and removes the records of files that are gone.

        Raises:
            InvalidRequest: If the folder cannot be read, or holds no image any more although it held some. Nothing
                is removed then: the disk may not be mounted.
        """
        found = find_sources([self._path], self._include_hidden)
        done = Pass()

        def refuse(source: Source, reason: str) -> None:
            done.failed[source.key] = reason

        sources = described(found.sources, refuse)
        present = {source.key: source for source in (*sources, *found.sources)}
        lost = gone(self._stored, present.values())
        if lost and not present:
            raise InvalidRequest(
                f"path: {self._path} holds no images any more, and {len(lost):,} records come from it; nothing was"
                " removed. If the folder is right, remove them with `lookalike ingest --prune`"
            )
        missing = [source for source in sources if self._needs(source)]
        self._store(keeping(missing, self._stored, lost), done)
        # Unreadable folders hide files that may still exist.
        if lost and not found.refused:
            done.removed = remove(self._client, self._name, lost)
            self._stored = {key: value for key, value in self._stored.items() if key not in lost}
        return done

    def _needs(self, source: Source) -> bool:
        stored = self._stored.get(source.key, {}).get("source", {})
        is_stored = (stored.get("url"), stored.get("signature")) == (source.url, source.signature)
        return not is_stored and self._failed.get(source.key) != source.signature

    def _store(self, sources: Sequence[Source], done: Pass) -> None:
        by_key = {source.key: source for source in sources}
        for outcome in self._client.ingest(self._records(sources, done), collection=self._name):
            source = by_key[outcome.key]
            if isinstance(outcome.error, InvalidRequest):
                done.failed[source.key] = outcome.error.message
            elif isinstance(outcome.error, LookalikeError):
                raise outcome.error
            else:
                done.stored += 1
                self._stored[source.key] = source.attributes
                self._failed.pop(source.key, None)
        for key in done.failed.keys() & by_key.keys():
            self._failed[key] = by_key[key].signature

    def _records(self, sources: Iterable[Source], done: Pass) -> Iterator[Record]:
        for source in sources:
            try:
                image = read(source.url, MAX_IMAGE_BYTES)
                facts, picture = facts_and_picture(image)
                small = small_jpeg(picture)
            except Exception as error:  # each store's library, and each decoder, raises its own errors
                done.failed[source.key] = str(error)
                continue
            attributes = source.attributes_with(dataclasses.asdict(facts))
            yield Record(source.key, image=image, attributes=attributes, thumbnail=small)


def watch(
    path: Annotated[str, typer.Argument(help="A folder, or a URL such as s3://bucket/photos.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the folder.", min=0.1)] = 5.0,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Take hidden files and folders of thumbnails too.")
    ] = False,
    patience: Annotated[
        float, typer.Option(help="Seconds to retry while the cluster does not answer.", min=0)
    ] = 300.0,
    encoder: NewCollectionsEncoder = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Follow a folder until Ctrl-C: store new and changed images, and remove the records of files that are gone.

    The cluster's encoder encodes the images. For the first million, `lookalike ingest` is faster."""
    with connect(server, max(1.0, patience)) as client:
        follower = Follower(client, get_or_create_encoded(client, collection, encoder), path, hidden, patience)
        while True:
            began = time.monotonic()
            try:
                done = follower.look()
            except (InvalidRequest, PartitionUnavailable) as error:
                print(f"{time.strftime('%H:%M:%S')} {error.message}", flush=True)
            else:
                for key, reason in done.failed.items():
                    print(f"{time.strftime('%H:%M:%S')} {key}: {reason}", flush=True)
                if done.stored or done.removed:
                    print(f"{time.strftime('%H:%M:%S')} {done}", flush=True)
            time.sleep(max(0.0, every - (time.monotonic() - began)))
