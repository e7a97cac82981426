"""The choice among encoders: by code space, with encoders that restart with other settings or do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import types
import warnings
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest

from coordinator.encoders import Encoders
from encoder.model import EncoderModel
from encoder.spec import Description, Encoded, EncoderSpec
from lab.demo.photographs import bundled_photographs
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest, PartitionUnavailable
from lookalike.model.query import Box
from lookalike.server.config import EncoderConfig, SecurityConfig
from lookalike.server.peer_channels import PeerChannels
from lookalike.v1 import encoder_pb2_grpc


class InProcess:
    """A model in this process instead of behind Ray Serve."""

    def __init__(self, model: EncoderModel) -> None:
        async def encode(
            images: Sequence[bytes], features: bool, projections: bool, boxes: Sequence[Box | None]
        ) -> list[Encoded]:
            return model.encode(images, features, projections, boxes)

        self.encode = types.SimpleNamespace(remote=encode)


@pytest.fixture(scope="module")
def models() -> dict[int, EncoderModel]:
    return {bits: EncoderModel(EncoderSpec("tf_efficientnet_lite0", bits, 0)) for bits in (64, 128)}


@pytest.fixture(scope="module")
def image() -> bytes:
    return bundled_photographs()[0].path.read_bytes()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(address: str, model: EncoderModel) -> AsyncIterator[None]:
    """The encoder's gRPC service with a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray Serve 2.60 uses a deprecated argument of pydantic
        from encoder.server import EncoderServicer
    own = Description(model.space, model.width, "cpu", model.hash.to_bytes())
    servicer = EncoderServicer(InProcess(model), "default", own, 1, 2**25)
    server = grpc.aio.server()
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server)
    assert server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
        await servicer.close()


@contextlib.asynccontextmanager
async def encoders_at(**addresses: str) -> AsyncIterator[Encoders]:
    configs = {name: EncoderConfig(address=address) for name, address in addresses.items()}
    encoders = Encoders(configs, PeerChannels(SecurityConfig()), 2**20)
    yield encoders
    await encoders.close()


def soon() -> float:
    return asyncio.get_running_loop().time() + 20


async def codes_of(encoders: Encoders, image: bytes, space: CodeSpace) -> bytes:
    (found,) = await encoders.encode([image], space, soon())
    assert not isinstance(found, InvalidRequest)
    return found.code


async def test_images_go_to_the_encoder_of_the_code_space(models: dict[int, EncoderModel], image: bytes) -> None:
    first, second = free_address(), free_address()
    async with (
        serving(first, models[64]),
        serving(second, models[128]),
        encoders_at(default=first, wide=second) as encoders,
    ):
        for model in models.values():
            expected = model.encode([image])[0].code
            assert await codes_of(encoders, image, model.space) == expected
        assert (await encoders.describe("wide", soon())).space == models[128].space
        assert (await encoders.describe("", soon())).hash_file == models[64].hash.to_bytes()


async def test_an_encoder_that_restarts_with_other_settings_is_found_again(
    models: dict[int, EncoderModel], image: bytes
) -> None:
    """The two encoders exchange their addresses, as after an edit of the config."""
    first, second = free_address(), free_address()
    async with encoders_at(default=first, wide=second) as encoders:
        async with serving(first, models[64]), serving(second, models[128]):
            assert len(await codes_of(encoders, image, models[64].space)) == 8
        async with serving(first, models[128]), serving(second, models[64]):
            # The channels may still wait before they connect again.
            while True:
                with contextlib.suppress(PartitionUnavailable):
                    assert len(await codes_of(encoders, image, models[64].space)) == 8
                    break
                await asyncio.sleep(0.05)
            assert len(await codes_of(encoders, image, models[128].space)) == 16


async def test_an_unknown_code_space_is_an_error_that_lists_the_encoders(
    models: dict[int, EncoderModel], image: bytes
) -> None:
    address = free_address()
    other = CodeSpace(256, backbone="timm:other", hash_method="itq")
    async with serving(address, models[64]), encoders_at(default=address) as encoders:
        with pytest.raises(CodeSpaceMismatch) as error:
            await encoders.encode([image], other, soon())
    assert "(timm:other, itq, 256 bits); the cluster has default (timm:tf_eff" in error.value.message


async def test_an_encoder_that_does_not_answer_may_be_the_one(
    models: dict[int, EncoderModel], image: bytes
) -> None:
    address = free_address()
    other = CodeSpace(256, backbone="timm:other", hash_method="itq")
    async with serving(address, models[64]), encoders_at(default=address, shoes=free_address()) as encoders:
        assert len(await codes_of(encoders, image, models[64].space)) == 8
        with pytest.raises(PartitionUnavailable, match=r"that answers.*; shoes \(does not answer\); retry"):
            await encoders.encode([image], other, soon())
        default, others = await encoders.statuses(soon())
        assert (default.name, default.state) == ("default", "serving")
        assert [(each.name, each.state) for each in others] == [("shoes", "unavailable")]


async def test_a_cluster_without_encoders_or_without_a_default_one_says_so(image: bytes) -> None:
    space = CodeSpace(64)
    async with encoders_at() as encoders:
        with pytest.raises(InvalidRequest, match="image: this cluster has no encoder"):
            await encoders.encode([image], space, soon())
        with pytest.raises(InvalidRequest, match="encoder: this cluster has none"):
            await encoders.describe("", soon())
        assert (await encoders.statuses(soon()))[0].state == "none"
    async with encoders_at(shoes=free_address()) as encoders:
        with pytest.raises(InvalidRequest, match="encoder: this cluster has no default one; use one of shoes"):
            await encoders.describe("", soon())


def test_images_are_checked_before_they_are_sent() -> None:
    encoders = Encoders({}, PeerChannels(SecurityConfig()), 10)
    assert encoders.check_image(b"x" * 10)
    for image, words in ((b"", "is empty"), (b"x" * 11, "send at most 10")):
        with pytest.raises(InvalidRequest, match=words):
            encoders.check_image(image)
