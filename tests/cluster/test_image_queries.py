"""Parts of images, several images at once, and images of every Python kind, with the real encoder on Ray."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from lookalike import AsyncClient, Client, Example, Record, SearchResult
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import encoder_pb2, encoder_pb2_grpc, record_pb2
from tests.command import lookalike
from tests.conftest import Cluster
from tests.web.rest import Rest, form

NAME = "image-queries"
BOX = (0.25, 0.0, 1.0, 0.5)


@pytest.fixture(scope="module")
def paths(photographs: Path) -> list[Path]:
    return sorted(photographs.rglob("*.jpg"))


@pytest.fixture(scope="module")
def cluster(encoder_cluster: Cluster, paths: list[Path]) -> Iterator[Cluster]:
    with encoder_cluster.client(timeout=60) as client:
        client.create_collection(NAME)
        client.upsert([Record(path.stem, image=path) for path in paths], collection=NAME)
        yield encoder_cluster
        client.drop_collection(NAME)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> EncoderModel:
    return EncoderModel(EncoderSpec("tf_efficientnet_lite0", 256, 0))


@pytest.fixture(scope="module")
def picture(paths: list[Path]) -> Image.Image:
    return Image.open(paths[0]).convert("RGB")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def cropped(image: Image.Image) -> bytes:
    """A file of the part of the image in BOX."""
    x0, y0, x1, y1 = BOX
    size = (image.width, image.height)
    return png(image.crop((round(x0 * size[0]), round(y0 * size[1]), round(x1 * size[0]), round(y1 * size[1]))))


def same(result: SearchResult, expected: SearchResult) -> bool:
    return bool(result.hits) and result.hits == expected.hits


def test_a_box_searches_with_a_part_of_the_image(client: Client, cluster: Cluster, picture: Image.Image) -> None:
    expected = client.search(collection=NAME, image=cropped(picture))
    whole = client.search(collection=NAME, image=png(picture))
    assert not same(expected, whole)
    assert same(client.search(collection=NAME, image=png(picture), box=BOX), expected)
    assert same(client.search(collection=NAME, image=png(picture), box=(0, 0, 1, 1)), whole)
    batch = client.search_batch(collection=NAME, images=[png(picture)] * 3, boxes=[None, BOX, None])
    assert same(batch[0], whole)
    assert same(batch[1], expected)
    assert same(batch[2], whole)

    async def ask() -> SearchResult:
        async with AsyncClient(cluster.address) as other:
            return await other.search(collection=NAME, image=png(picture), box=BOX)

    assert same(asyncio.run(ask()), expected)


def test_a_box_works_over_rest_and_on_the_command_line(
    client: Client, cluster: Cluster, picture: Image.Image, tmp_path: Path
) -> None:
    keys = client.search(collection=NAME, image=cropped(picture), k=5).keys
    box = json.dumps(dict(zip(("x0", "y0", "x1", "y1"), BOX, strict=True))).encode()
    body, media_type = form(image=png(picture), box=box, options=b'{"k": 5}')
    reply = Rest(cluster.config.coordinator.web)(
        "POST", f"/v1/collections/{NAME}/search", body, content_type=media_type
    )
    assert [hit["key"] for hit in reply.json["hits"]] == keys
    (tmp_path / "a.png").write_bytes(png(picture))
    at = ("-c", NAME, "--server", cluster.address, "-k", "5", "--json", "--box", ",".join(map(str, BOX)))
    for images in (["a.png"], ["a.png", "a.png"]):
        code, output, error = lookalike("search", *(tmp_path / name for name in images), *at)
        assert code == 0, error
        for line in output.strip().split("\n{"):
            document = json.loads(line if line.startswith("{") else "{" + line)
            assert [hit["key"] for hit in document["hits"]] == keys


def test_invalid_boxes_are_refused(client: Client, cluster: Cluster, picture: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"box: x1 is 1\.5; use a share"):
        client.search(collection=NAME, image=png(picture), box=(0, 0, 1.5, 1))
    with pytest.raises(InvalidRequest, match="box: needs an image"):
        client.search(collection=NAME, key="a", box=BOX)
    body, media_type = form(image=png(picture), box=b'{"x0": 0.5, "x1": 0.5, "y1": 1}')
    reply = Rest(cluster.config.coordinator.web)(
        "POST", f"/v1/collections/{NAME}/search", body, content_type=media_type
    )
    assert reply.status == 400
    assert "box: x0 0.5 is not below x1 0.5" in reply.error["message"]
    (tmp_path / "a.png").write_bytes(png(picture))
    for text, words in [("0,0,1", "four numbers"), ("a,b,c,d", "write X0,Y0,X1,Y1"), ("0,0,2,1", "x1 is 2.0")]:
        _, _, error = lookalike(
            "search", tmp_path / "a.png", "--box", text, "-c", NAME, "--server", cluster.address
        )
        assert words in error


def test_several_images_are_one_search(
    client: Client, cluster: Cluster, picture: Image.Image, paths: list[Path], model: EncoderModel
) -> None:
    wanted, avoided = [paths[0], paths[9]], paths[17]
    codes = [item.code for item in model.encode([*(path.read_bytes() for path in wanted), avoided.read_bytes()])]
    (part,) = model.encode([cropped(picture)])
    expected = client.search(
        collection=NAME, examples=[Example(code=code) for code in (*codes[:2], part.code)],
        not_like=[Example(code=codes[2])],
    )  # fmt: skip
    result = client.search(
        collection=NAME, examples=[*(Example(image=path) for path in wanted), Example(image=picture, box=BOX)],
        not_like=[Example(image=avoided)],
    )  # fmt: skip
    assert same(result, expected)
    further = {"like": [{"code": _base64(codes[1])}], "notLike": [{"code": _base64(codes[2])}]}
    body, media_type = form(image=wanted[0].read_bytes(), examples=json.dumps(further).encode())
    reply = Rest(cluster.config.coordinator.web)(
        "POST", f"/v1/collections/{NAME}/search", body, content_type=media_type
    )
    # A code comes with its code space, which a form cannot say.
    assert "the query" in reply.error["message"]
    further = {"like": [{"key": wanted[1].stem}], "notLike": [{"key": avoided.stem}]}
    body, media_type = form(image=wanted[0].read_bytes(), examples=json.dumps(further).encode())
    reply = Rest(cluster.config.coordinator.web)(
        "POST", f"/v1/collections/{NAME}/search", body, content_type=media_type
    )
    keys = [hit["key"] for hit in reply.json["hits"]]
    found = client.search(
        collection=NAME, examples=[Example(image=wanted[0]), Example(key=wanted[1].stem)],
        not_like=[Example(key=avoided.stem)],
    )  # fmt: skip
    assert keys == found.keys
    command = ["search", *wanted, "--together", "--not-image", avoided, "--json", "-c", NAME]
    code, output, error = lookalike(*command, "--server", cluster.address)
    assert code == 0, error
    both = client.search(
        collection=NAME, examples=[Example(image=path) for path in wanted], not_like=[Example(image=avoided)]
    )
    assert [hit["key"] for hit in json.loads(output)["hits"]] == both.keys


def _base64(code: bytes) -> str:
    import base64

    return base64.b64encode(code).decode()


def test_pillow_images_and_pixels_are_found_like_files(
    client: Client, picture: Image.Image, model: EncoderModel
) -> None:
    pixels = np.asarray(picture)
    expected = client.search(collection=NAME, image=png(picture))
    for image in (picture, pixels):
        assert same(client.search(collection=NAME, image=image), expected)
    for result in client.search_batch(collection=NAME, images=[picture, pixels]):
        assert same(result, expected)
    grey = np.asarray(picture.convert("L"))
    client.upsert([Record("pixels", image=pixels), Record("grey", image=grey)], collection=NAME)
    first, second = client.get(["pixels", "grey"], collection=NAME)
    assert [first.code, second.code] == [
        item.code for item in model.encode([png(picture), png(picture.convert("L"))])
    ]
    client.delete(["pixels", "grey"], collection=NAME)


def test_the_encoder_says_which_images_it_cropped(
    cluster: Cluster, picture: Image.Image, model: EncoderModel
) -> None:
    assert cluster.config.encoder is not None
    box = record_pb2.Box(x0=BOX[0], y0=BOX[1], x1=BOX[2], y1=BOX[3])
    request = encoder_pb2.EncodeRequest(images=[png(picture)] * 2, boxes=[box, record_pb2.Box()])
    expected = [item.code for item in model.encode([cropped(picture), png(picture)])]
    with grpc.insecure_channel(cluster.config.encoder.address) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        answer = stub.Encode(request)
        assert [image.code for image in answer.images] == expected
        assert [image.cropped for image in answer.images] == [True, False]
        invalid: list[tuple[Any, str]] = [([box], "boxes: are 1 for 2"), ([box, box], "box: y0 0")]
        invalid[1][0][1] = record_pb2.Box(x1=1, y0=0.9, y1=0.5)
        for boxes, words in invalid:
            with pytest.raises(grpc.RpcError, match=words):
                stub.Encode(encoder_pb2.EncodeRequest(images=[png(picture)] * 2, boxes=boxes))
