"""However a picture is given, the service sees the same one; what is not one is told before anything is sent."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fusionlens_client import AsyncClient, Client, Drawing, InvalidInput
from PIL import Image

from tests.support.asking import png_bytes, scene
from tests.support.client_json import as_json
from tests.support.pictures import blocks, encoded, exif, turned
from tests.support.scripted_server import Answer, scripted


def told(client: Client, picture: Any) -> dict[str, Any]:
    """What the service says of a picture, but for what differs between any two requests."""
    answer = as_json(client.predict(picture))
    return {name: answer[name] for name in ("label", "probabilities", "trust", "picture")}


def test_every_way_to_give_a_picture_gives_the_same_prediction(client: Client, tmp_path: Path) -> None:
    content, image = png_bytes(), scene()
    file = tmp_path / "scene.png"
    file.write_bytes(content)
    ways = [str(file), content, bytearray(content), memoryview(content), image, Image.open(file), np.asarray(image)]
    ways.append(np.asarray(image)[:, ::-1][:, ::-1])  # not contiguous
    expected = told(client, file)
    assert [told(client, way) for way in ways] == [expected] * len(ways)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_an_image_of_any_mode_is_the_file_that_it_was_opened_from(client: Client, tmp_path: Path, mode: str) -> None:
    file = tmp_path / "scene.png"
    grey = np.asarray(scene().convert("L")).astype(np.uint16)
    (Image.fromarray(grey * 257) if mode == "I;16" else scene().convert(mode)).save(file)
    with Image.open(file) as image:
        assert image.mode == mode
        assert told(client, image) == told(client, file)


def test_arrays_may_be_grey_or_have_alpha(client: Client) -> None:
    rgb = np.asarray(scene())
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    assert told(client, opaque)["probabilities"] == told(client, rgb)["probabilities"]
    grey = np.asarray(scene().convert("L"))
    assert told(client, grey)["probabilities"] == told(client, np.dstack([grey] * 3))["probabilities"]


def test_an_image_stays_upright(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "turned.png"
    Image.fromarray(turned(blocks(), 6)).save(file, exif=exif(6))
    with Image.open(file) as image:
        assert image.size == (16, 24)
        answer = told(client, image)
    assert answer == told(client, file)
    assert (answer["picture"]["width_px"], answer["picture"]["height_px"]) == (24, 16)


ODD_NAMES = [
    'a "quoted" one.png',
    "two\nlines; filename=x.png",
    "Ελλάδα 🩻.png",
    os.fsdecode(b"\xff\xfe.png"),
    "%41.exe",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_the_name_of_a_file_does_not_matter_and_is_not_sent(client: Client, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(png_bytes())
    assert told(client, file) == told(client, png_bytes())
    sent = []
    for picture in (file, png_bytes()):
        with scripted(Answer(body=b"no answer")) as server, Client(server.address) as other:
            with pytest.raises(Exception, match="JSON"):
                other.predict(picture)
            boundary = server.requests[0].headers["Content-Type"].partition("boundary=")[2].encode()
            sent.append(server.requests[0].body.replace(boundary, b""))
    assert sent[0] == sent[1] and png_bytes() in sent[0]


BAD_PICTURES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda folder: folder / "gone.png", "There is no file .*gone.png"),
    "a folder": (lambda folder: str(folder), "is a folder"),
    "a path with a NUL": (lambda folder: "a\0b", "is no path"),
    "an empty path": (lambda folder: "", "is a folder|There is no file"),
    "a name that is too long": (lambda folder: folder / ("x" * 300), "cannot be read"),
    "no bytes": (lambda folder: b"", "These bytes are empty"),
    "None": (lambda folder: None, "A NoneType is no picture"),
    "a list": (lambda folder: [[0, 1]], "A list is no picture"),
    "floats": (lambda folder: np.zeros((4, 4, 3)), "float64 is no picture"),
    "large integers": (lambda folder: np.zeros((4, 4, 3), np.int64), "int64 is no picture"),
    "channels first": (lambda folder: np.zeros((3, 40, 40), np.uint8), r"shape \(3, 40, 40\)"),
    "a batch": (lambda folder: np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
    "a row": (lambda folder: np.zeros(4, np.uint8), r"shape \(4,\)"),
    "an empty array": (lambda folder: np.zeros((0, 4, 3), np.uint8), "4 × 0 pixels is empty"),
    "an empty image": (lambda folder: Image.new("RGB", (0, 4)), "0 × 4 pixels is empty"),
    "CMYK": (lambda folder: Image.new("CMYK", (4, 4)), "mode CMYK .* convert"),
    "floats in an image": (lambda folder: Image.new("F", (4, 4)), "mode F .* convert"),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_what_is_no_picture_is_told_in_a_sentence_and_not_sent(tmp_path: Path, kind: str) -> None:
    make, sentence = BAD_PICTURES[kind]
    with scripted(Answer()) as server, Client(server.address) as client:
        with pytest.raises(InvalidInput, match=sentence) as refused:
            client.predict(make(tmp_path))
        assert server.requests == []
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_an_empty_file_and_an_image_that_ends_early_are_told(tmp_path: Path) -> None:
    empty, cut = tmp_path / "empty.png", tmp_path / "cut.png"
    empty.write_bytes(b"")
    content = encoded(Image.effect_noise((64, 64), 90), "PNG")
    cut.write_bytes(content[: len(content) // 2])
    with scripted(Answer()) as server, Client(server.address) as client:
        with pytest.raises(InvalidInput, match=r"empty\.png is empty"):
            client.predict(empty)
        with Image.open(cut) as image, pytest.raises(InvalidInput, match="This image cannot be read"):
            client.predict(image)
        assert server.requests == []


def with_exif(tag: int, value: object) -> Image.Image:
    image = scene()
    image.getexif()[tag] = value
    return image


def with_info(name: str, value: object) -> Image.Image:
    image = scene()
    image.info[name] = value
    return image


@pytest.mark.parametrize(
    "image",
    [
        with_exif(282, "abc"),
        with_exif(0x8769, "bad"),
        with_exif(274, 70_000),
        with_exif(282, 10**400),
        with_info("icc_profile", "a text"),
        with_info("transparency", "abc"),
        with_info("transparency", ()),
        with_info("exif", b"Exif\0\0no TIFF"),
    ],
    ids=range(8),
)
def test_metadata_of_an_image_that_cannot_be_written_are_told(image: Image.Image) -> None:
    with scripted(Answer()) as server, Client(server.address) as client:
        with pytest.raises(
            InvalidInput, match=r"The metadata of this image cannot be written \(.+\): correct or remove"
        ):
            client.predict(image)
        assert server.requests == []


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"url": "localhost:8000"}, "no scheme"),
    ({"url": ""}, "no scheme"),
    ({"url": "ftp://host"}, "not one of HTTP"),
    ({"url": "http://"}, r"is not one \(it has no host\)"),
    ({"url": "http://host:port"}, "is not one"),
    ({"url": "http://ho\nst"}, "is not one"),
    ({"url": "http://."}, "is not one"),
    ({"url": "http://me:secret@a..b"}, "is not one"),
    ({"url": "http://" + "a" * 300}, "is not one"),
    ({"url": "http://xn--a"}, "is not one"),
    ({"url": "http://host/\ud800"}, "is not one"),
    ({"url": "http://127.0.0.1:65536"}, "a port is at most 65535"),
    ({"url": "http://me:secret@host"}, "a name or a password"),
    ({"url": "http://host/?a=1"}, "query or a fragment"),
    ({"url": None}, "NoneType is no address"),
    ({"key": ""}, "key is empty"),
    ({"key": "fl_secret\n"}, "line break"),
    ({"key": "fl secret"}, "blank"),
    ({"key": "clé-secret"}, "beyond ASCII"),
    *(({"max_wait_s": seconds}, "max_wait_s cannot be used") for seconds in (-1, math.nan, math.inf, 1e300, 10**400)),
    *(({"timeout_s": seconds}, r"from 0\.001 to 1,000,000") for seconds in (0, "5", None, 1e300, 10**5000)),
]
EITHER = pytest.mark.parametrize("kind", [Client, AsyncClient])


@EITHER
@pytest.mark.parametrize(("arguments", "sentence"), BAD_ARGUMENTS, ids=range(len(BAD_ARGUMENTS)))
def test_a_client_that_could_not_work_is_not_made(
    kind: type[Client | AsyncClient], arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        kind(**{"url": "http://localhost", **arguments})
    assert "secret" not in str(refused.value) and str(refused.value).endswith(".")


def test_the_longest_time_limit_can_be_waited_for() -> None:
    with scripted(Answer(body=b'{"status": "live"}')) as server, Client(server.address, timeout_s=1e6) as client:
        assert client.live().status == "live"


ENVIRONMENTS = [
    ("ALL_PROXY", "socks5://127.0.0.1:1"),
    ("HTTP_PROXY", "ftp://me:secret@host:1"),
    ("HTTP_PROXY", "http://me:secret@.:1"),
    ("HTTPS_PROXY", "127.0.0.1:65536"),
    ("SSL_CERT_FILE", "/nowhere"),
    ("SSL_CERT_FILE", __file__),
]


@EITHER
@pytest.mark.parametrize(("name", "value"), ENVIRONMENTS)
def test_proxies_and_certificates_of_the_environment_that_cannot_be_used_are_told(
    kind: type[Client | AsyncClient], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"that the environment names cannot be used .*{name}") as refused:
        kind("https://localhost")
    assert "secret" not in str(refused.value) and str(refused.value).endswith(".")


@pytest.mark.parametrize("value", ["\ud800", "x" * 70_000, 10**5000], ids=["no text", "a long text", "a long number"])
def test_a_value_that_cannot_be_sent_is_told_and_not_sent(client: Client, value: Any) -> None:
    prediction = client.predict(png_bytes())
    heatmap = prediction.explain()
    questions: list[Callable[[], object]] = [
        lambda: client.predict(png_bytes(), coverage=value),
        lambda: prediction.explain(target=value),
        lambda: prediction.attention(query=value),
        lambda: prediction.similar(value),
        lambda: heatmap.png(Drawing(colormap=value)),
    ]
    for question in questions:
        with pytest.raises(InvalidInput, match="has a value that cannot be sent"):
            question()


@pytest.mark.parametrize("address", ["{}/lens", "{}/lens/"])
def test_paths_are_added_to_the_address(address: str) -> None:
    with scripted(Answer(body=b'{"status": "live"}')) as server, Client(address.format(server.address)) as client:
        client.live()
        assert server.requests[0].target == "/lens/health/live"
