"""Owns the contents that are written and searched for: random codes, or images whose codes the cluster's encoder
computed once, before any fault."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lookalike import Client, Record
from lookalike.model.errors import AlreadyExists
from tests.chaos.history import Write

BITS = 64
FEATURES = 4
_IMAGES = 24
_SIDE = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """The content of a record: its code and, if the encoder is to compute the code, an encoded image file."""

    code: int
    image: bytes | None = None

    def record(self, write: Write, fingerprint: str, if_version: int | None = None) -> Record:
        """Returns the record that a write stores."""
        attributes = {"writer": owner_of(write.key), "key": write.key, **attributes_of(write)}
        thumbnail = write.thumbnail or None
        if self.image is not None:
            return Record(
                write.key, image=self.image, attributes=attributes, thumbnail=thumbnail, if_version=if_version
            )
        code = code_bytes(self.code)
        return Record(
            write.key, code=code, attributes=attributes, fingerprint=fingerprint, thumbnail=thumbnail,
            features=features_of(self.code), if_version=if_version,
        )  # fmt: skip

    def query(self, fingerprint: str) -> dict[str, Any]:
        """Returns the arguments of a search for this content."""
        if self.image is not None:
            return {"image": self.image}
        return {"code": code_bytes(self.code), "fingerprint": fingerprint}


class Source(Protocol):
    """A collection and its contents."""

    collection: str
    fingerprint: str
    has_features: bool

    def draw(self, rng: random.Random) -> Content: ...
    def of(self, code: int) -> Content: ...


class Codes:
    """Every content is a different code, so that a code identifies its write. Features are stored with it."""

    has_features = True

    def __init__(self, client: Client, collection: str = "chaos") -> None:
        self.collection = collection
        with contextlib.suppress(AlreadyExists):
            client.create_collection(collection, bits=BITS, features="int8", feature_width=FEATURES)
        self.fingerprint = client.get_collection(collection).code_space.fingerprint

    def draw(self, rng: random.Random) -> Content:
        return Content(rng.getrandbits(BITS))

    def of(self, code: int) -> Content:
        return Content(code)


class Images:
    """Images of noise. Their codes are obtained by storing them once."""

    has_features = False

    def __init__(self, client: Client, seed: int, collection: str = "chaos-images") -> None:
        self.collection = collection
        client.create_collection(collection)
        self.fingerprint = client.get_collection(collection).code_space.fingerprint
        palette = f"{collection}-palette"
        client.create_collection(palette)
        images = {f"image{i}": _noise(seed + i) for i in range(_IMAGES)}
        client.upsert([Record(key, image=image) for key, image in images.items()], collection=palette)
        stored = client.get(list(images), collection=palette)
        self._contents = [Content(code_number(record.code), images[record.key]) for record in stored]
        self._by_code = {content.code: content for content in self._contents}

    def draw(self, rng: random.Random) -> Content:
        return rng.choice(self._contents)

    def of(self, code: int) -> Content:
        return self._by_code[code]


def attributes_of(write: Write) -> dict[str, Any]:
    """Returns the attributes of a record that its writes change."""
    given = write.attributes
    attributes = {} if given is None else {"born": given.born, "group": given.group, "note": given.note}
    return {"sequence": write.sequence, **{name: value for name, value in attributes.items() if value is not None}}


def features_of(code: int) -> npt.NDArray[np.float32]:
    """Returns the features that are stored with a code, float32 (FEATURES,)."""
    return np.array([(code >> 16 * place & 0xFFFF) + 1 for place in range(FEATURES)], np.float32)


def cosine(code: int, other: int) -> float:
    """Returns the cosine of the features of two codes."""
    one, two = features_of(code), features_of(other)
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def thumbnail_of(sequence: int) -> bytes:
    """Returns the thumbnail of an upsert; empty for every other one."""
    return b"\xff\xd8\xff\xe0" + sequence.to_bytes(8, "big") if sequence % 2 else b""


def owner_of(key: str) -> str:
    """Returns the writer of a key; keys are WRITER-NUMBER."""
    return key.partition("-")[0]


def code_bytes(code: int) -> bytes:
    return code.to_bytes(BITS // 8, "big")


def code_number(code: bytes) -> int:
    return int.from_bytes(code, "big")


def _noise(seed: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
