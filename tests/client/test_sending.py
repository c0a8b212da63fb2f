"""However a picture is given, the service sees the same one; what is not one is told before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fusionlens_client import Client, InvalidInput
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


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"url": "localhost:8000"}, "no scheme"),
    ({"url": ""}, "no scheme"),
    ({"url": "ftp://host"}, "not one of HTTP"),
    ({"url": "http://"}, "not one of HTTP"),
    ({"url": "http://host:port"}, "is not one"),
    ({"url": "http://ho\nst"}, "is not one"),
    ({"url": "http://me:secret@host"}, "a name or a password"),
    ({"url": "http://host/?a=1"}, "query or a fragment"),
    ({"url": None}, "NoneType is no address"),
    ({"key": ""}, "key is empty"),
    ({"key": "fl_secret\n"}, "line break"),
    ({"key": "fl secret"}, "blank"),
    ({"key": "clé-secret"}, "beyond ASCII"),
    ({"max_wait_s": -1}, "max_wait_s is -1"),
    ({"max_wait_s": float("nan")}, "max_wait_s is nan"),
    ({"timeout_s": 0}, "timeout_s is 0"),
    ({"timeout_s": "5"}, "timeout_s is '5'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_ARGUMENTS)
def test_a_client_that_could_not_work_is_not_made(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        Client(**{"url": "http://localhost", **arguments})
    assert "secret" not in str(refused.value) and str(refused.value).endswith(".")


@pytest.mark.parametrize("address", ["{}/lens", "{}/lens/"])
def test_paths_are_added_to_the_address(address: str) -> None:
    with scripted(Answer(body=b'{"status": "live"}')) as server, Client(address.format(server.address)) as client:
        client.live()
        assert server.requests[0].target == "/lens/health/live"
