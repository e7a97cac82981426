"""Owns the choice among the cluster's encoders. A collection's images go to the encoder whose code space has the
collection's fingerprint, so a collection stores no encoder's name, and encoders can be renamed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping, Sequence

from coordinator.encoder_link import Description, EncodedImage, EncoderLink
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest, LookalikeError, PartitionUnavailable
from lookalike.model.query import Box
from lookalike.model.status import DEFAULT_ENCODER, EncoderStatus
from lookalike.server.config import EncoderConfig
from lookalike.server.peer_channels import PeerChannels

# How long an encoder may take to describe itself if others could be the one that is searched for.
_DESCRIBE_SECONDS = 2.0


class Encoders:
    """The cluster's encoders, if it has any. Deadlines are times of the running loop's clock."""

    def __init__(
        self, configs: Mapping[str, EncoderConfig], peer_channels: PeerChannels, max_image_bytes: int
    ) -> None:
        self._links = {name: EncoderLink(config.address, peer_channels) for name, config in configs.items()}
        self._max_image_bytes = max_image_bytes
        # The code space that each encoder reported last.
        self._spaces: dict[str, CodeSpace] = {}

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()

    def check_image(self, image: bytes) -> bytes:
        """Returns the image. Raises InvalidRequest if it is empty or too large."""
        if not image:
            raise InvalidRequest("image: is empty (0 bytes); send an encoded image file")
        if len(image) > self._max_image_bytes:
            raise InvalidRequest(
                f"image: has {len(image):,} bytes; send at most {self._max_image_bytes:,}, scaled down beforehand"
            )
        return image

    async def describe(self, name: str, deadline: float) -> Description:
        """Returns the current code space of an encoder, with its hash file.

        Args:
            name: The encoder's name; "" for the default one.
            deadline: When to give up.

        Raises:
            InvalidRequest: If the cluster has no such encoder.
        """
        if not self._links:
            raise InvalidRequest(
                "encoder: this cluster has none; set the collection's bits and send codes,"
                " or add an encoder to the config"
            )
        link = self._links.get(name or DEFAULT_ENCODER)
        if link is None:
            what = f"{name!r} is not an encoder of this cluster" if name else "this cluster has no default one"
            raise InvalidRequest(f"encoder: {what}; use one of {', '.join(self._links)}")
        found = await link.describe(deadline, include_hash=True)
        self._spaces[name or DEFAULT_ENCODER] = found.space
        return found

    async def encode(
        self,
        images: Sequence[bytes],
        space: CodeSpace,
        deadline: float,
        *,
        feature_width: int = 0,
        include_projections: bool = False,
        boxes: Sequence[Box | None] = (),
    ) -> list[EncodedImage | InvalidRequest]:
        """Encodes images with the encoder of a code space. For the arguments, the result and the errors see
        `EncoderLink.encode`.

        Raises:
            CodeSpaceMismatch: If all encoders use other code spaces.
            PartitionUnavailable: If an encoder that does not answer might use it.
        """
        if not self._links:
            raise InvalidRequest("image: this cluster has no encoder; send codes, or add one to the config")
        encode = functools.partial(
            EncoderLink.encode, images=images, space=space, deadline=deadline,
            feature_width=feature_width, include_projections=include_projections, boxes=boxes,
        )  # fmt: skip
        known = self._known(space)
        if known is not None:
            # It may have restarted with other settings since it reported this code space.
            with contextlib.suppress(CodeSpaceMismatch):
                return await encode(known)
        return await encode(await self._found(space, deadline))

    async def statuses(self, deadline: float) -> tuple[EncoderStatus, list[EncoderStatus]]:
        """Returns the states of the default encoder and of the others. One that does not answer until the deadline
        is unavailable."""
        found = dict(zip(self._links, await self._ask(deadline), strict=True))
        states = {name: self._status(name, answer) for name, answer in found.items()}
        default = states.pop(DEFAULT_ENCODER, EncoderStatus("", "none", "", None))
        return default, list(states.values())

    def _status(self, name: str, answer: CodeSpace | LookalikeError) -> EncoderStatus:
        address = self._links[name].address
        if isinstance(answer, LookalikeError):
            return EncoderStatus(address, "unavailable", answer.message, None, name)
        return EncoderStatus(address, "serving", "", answer, name)

    def _known(self, space: CodeSpace) -> EncoderLink | None:
        """The encoder that reported this code space last."""
        return next((self._links[name] for name, own in self._spaces.items() if own == space), None)

    async def _found(self, space: CodeSpace, deadline: float) -> EncoderLink:
        """Asks all encoders, and returns the one that uses this code space. Raises what `encode` raises."""
        if len(self._links) > 1:
            deadline = min(deadline, asyncio.get_running_loop().time() + _DESCRIBE_SECONDS)
        answers = await self._ask(deadline)
        if (link := self._known(space)) is not None:
            return link
        failures = [answer for answer in answers if isinstance(answer, LookalikeError)]
        if failures and len(answers) == 1:
            raise failures[0]
        configured = "; ".join(map(_described, self._links, answers))
        needed = f"{space.fingerprint[:12]}… ({space.backbone}, {space.hash_method}, {space.bits} bits)"
        if failures:
            raise PartitionUnavailable(
                f"image: no encoder that answers uses the collection's code space {needed}: {configured}; retry"
            )
        raise CodeSpaceMismatch(
            f"image: no encoder uses the collection's code space {needed}; the cluster has {configured}. Send"
            " codes, or add an encoder with the collection's model and hash to the config"
        )

    async def _ask(self, deadline: float) -> list[CodeSpace | LookalikeError]:
        """Asks all encoders for their code spaces."""
        return await asyncio.gather(*(self._space_of(name, deadline) for name in self._links))

    async def _space_of(self, name: str, deadline: float) -> CodeSpace | LookalikeError:
        try:
            self._spaces[name] = (await self._links[name].describe(deadline)).space
        except LookalikeError as error:
            return error
        return self._spaces[name]


def _described(name: str, answer: CodeSpace | LookalikeError) -> str:
    if isinstance(answer, LookalikeError):
        return f"{name} (does not answer)"
    return f"{name} ({answer.backbone}, {answer.hash_method}, {answer.bits} bits, {answer.fingerprint[:12]}…)"
