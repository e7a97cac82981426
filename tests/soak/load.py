"""Owns the load: threads that write, read and search, each with one kind of call after the other.

The keys are from a fixed set, so that the collection reaches a size and keeps it."""

from __future__ import annotations

import collections
import io
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from lookalike import Client, Record
from lookalike.model.errors import LookalikeError
from tests.soak.settings import Settings

CODES = "soak"
IMAGES = "soak-images"
BITS = 64
_BATCH = 50
_STREAM = 500
_IMAGE_KEYS = 500
_GROUPS = 20
_THUMBNAIL_BYTES = range(1_000, 4_000)
# A call is repeated for this long while a partition moves or restarts.
CALL_SECONDS = 120.0

Call = Callable[[random.Random], object]


class Load:
    """The threads of a run. `begin` starts them, `end` waits for them.

    Attributes:
        done: How many calls of each kind succeeded.
        failed: How many calls failed, by kind and error.
        broken: The errors that are no answers of the cluster.
    """

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._ending = threading.Event()
        self.done: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[tuple[str, str]] = collections.Counter()
        self.broken: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(number, calls), name=f"load{number}")
            for number, calls in enumerate(self._calls())
        ]

    def prepare(self) -> None:
        """Creates the collections, and fills that of codes."""
        self._client.create_collection(CODES, bits=BITS, index_attributes=["group"])
        rng = random.Random("fill")
        for _ in range(max(1, self._settings.records // _STREAM)):
            self._ingest(rng)
        if self._settings.has_encoder:
            self._client.create_collection(IMAGES)

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    @property
    def kinds(self) -> set[str]:
        """The kinds of calls that the load makes."""
        return {kind for calls in self._calls() for kind in calls}

    def _calls(self) -> list[Mapping[str, Call]]:
        writes: dict[str, Call] = {"upsert": self._upsert, "ingest": self._ingest}
        reads: dict[str, Call] = {"search": self._search, "filtered": self._filtered, "get": self._get}
        if self._settings.has_encoder:
            writes["upsert images"] = self._upsert_images
            reads["search by image"] = self._search_by_image
        changes: dict[str, Call] = {"delete": self._delete, "set": self._set}
        listings: dict[str, Call] = {"count": self._count, "scroll": self._scroll, "facets": self._facets}
        return [writes, changes, reads, reads, listings]

    def _repeat(self, number: int, calls: Mapping[str, Call]) -> None:
        rng = random.Random(number)
        try:
            for kind, call in itertools.cycle(calls.items()):
                if self._ending.wait(rng.uniform(0, 2 * self._settings.pause_seconds)):
                    return
                try:
                    call(rng)
                    self.done[kind] += 1
                except LookalikeError as error:
                    self.failed[kind, type(error).__name__] += 1
        except BaseException as error:
            self.broken.append(error)

    def _key(self, rng: random.Random) -> str:
        return f"k{rng.randrange(self._settings.records)}"

    def _keys(self, rng: random.Random) -> list[str]:
        return list({self._key(rng) for _ in range(_BATCH)})

    def _records(self, rng: random.Random, count: int) -> Iterator[Record]:
        for key in {self._key(rng) for _ in range(count)}:
            thumbnail = b"\xff\xd8\xff\xe0" + rng.randbytes(rng.choice(_THUMBNAIL_BYTES))
            attributes = {"group": rng.randrange(_GROUPS), "note": f"{rng.getrandbits(32):x}"}
            yield Record(key, code=_code(rng), attributes=attributes, thumbnail=thumbnail)

    def _upsert(self, rng: random.Random) -> None:
        self._client.upsert(self._records(rng, _BATCH), collection=CODES)

    def _ingest(self, rng: random.Random) -> None:
        for outcome in self._client.ingest(self._records(rng, _STREAM), collection=CODES):
            if not outcome.ok:
                self.failed["ingest", "a record"] += 1

    def _delete(self, rng: random.Random) -> None:
        self._client.delete(self._keys(rng), collection=CODES)

    def _set(self, rng: random.Random) -> None:
        group = {"group": rng.randrange(_GROUPS)}
        self._client.set_attributes(group, keys=self._keys(rng), collection=CODES)

    def _search(self, rng: random.Random) -> None:
        self._client.search(code=_code(rng), k=50, collection=CODES, include_thumbnails=True)

    def _filtered(self, rng: random.Random) -> None:
        self._client.search(code=_code(rng), k=10, filter={"group": rng.randrange(_GROUPS)}, collection=CODES)

    def _get(self, rng: random.Random) -> None:
        self._client.get(self._keys(rng), collection=CODES)

    def _count(self, rng: random.Random) -> None:
        self._client.count(collection=CODES, filter={"group": rng.randrange(_GROUPS)})

    def _scroll(self, rng: random.Random) -> None:
        collections.deque(itertools.islice(self._client.scroll(collection=CODES), 2_000), maxlen=0)

    def _facets(self, rng: random.Random) -> None:
        self._client.facets("group", collection=CODES)

    def _upsert_images(self, rng: random.Random) -> None:
        keys = {f"i{rng.randrange(_IMAGE_KEYS)}" for _ in range(8)}
        self._client.upsert([Record(key, image=_image(rng)) for key in keys], collection=IMAGES)

    def _search_by_image(self, rng: random.Random) -> None:
        self._client.search(image=_image(rng), k=10, collection=IMAGES)


def _code(rng: random.Random) -> bytes:
    return rng.randbytes(BITS // 8)


def _image(rng: random.Random) -> bytes:
    """A new image of noise, as a JPEG file."""
    from PIL import Image

    pixels = np.frombuffer(rng.randbytes(12 * 12 * 3), np.uint8).reshape(12, 12, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((240, 240), Image.Resampling.BILINEAR).save(file, "JPEG")
    return file.getvalue()
