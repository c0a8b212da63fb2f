"""A body that says nothing of its type is taken for what its first bytes are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.api.uploads import UNTOLD_TYPES
from app.pictures.formats import SIGNATURES
from tests.support.asking import assert_problem, png_bytes, scene
from tests.support.deploy.tools import run
from tests.support.pictures import encoded
from tests.support.programs import tool

PICTURE = png_bytes()
TYPES = [*UNTOLD_TYPES, "Application/Octet-Stream; charset=binary"]
NO_PICTURES = {
    "text": b"target=malignant&format=json",
    "a few bytes": b"\x89PN",
    "sound": b"RIFF\0\1\0\0WAVE" + bytes(2000),
    "zeros": bytes(100_000),
    "a picture later on": b"\n" + PICTURE,
    "a form without its type": b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + PICTURE,
}


def headers_of(media_type: str) -> dict[str, str]:
    return {"content-type": media_type} if media_type else {}


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("format_name", SIGNATURES)
def test_a_picture_is_known_by_its_first_bytes(client: httpx.Client, media_type: str, format_name: str) -> None:
    answered = client.post("/predict", content=encoded(scene(), format_name), headers=headers_of(media_type))
    assert (answered.status_code, answered.json()["picture"]["format"]) == (200, format_name)


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_does_not_begin_like_a_picture_is_refused(client: httpx.Client, media_type: str, kind: str) -> None:
    answered = client.post("/explain", content=NO_PICTURES[kind], headers=headers_of(media_type))
    said = assert_problem(answered, 415, "unsupported-media-type")
    assert "image/*" in said and "does not begin like a picture" in said
    assert (media_type.partition(";")[0].lower() or "no content type") in said


def test_the_first_bytes_may_come_one_by_one(client: httpx.Client) -> None:
    def slowly() -> Iterator[bytes]:
        yield from (PICTURE[place : place + 1] for place in range(20))
        yield PICTURE[20:]

    assert client.post("/predict", content=slowly()).status_code == 200


def test_an_empty_body_of_any_type_is_empty(client: httpx.Client) -> None:
    for media_type in TYPES:
        assert_problem(client.post("/predict", content=b"", headers=headers_of(media_type)), 400, "empty-upload")


@pytest.mark.parametrize("how", [["--data-binary", "@{}"], ["-X", "POST", "-T", "{}"]])
def test_curl_sends_a_file_as_it_is(client: httpx.Client, tmp_path: Path, how: list[str]) -> None:
    (file := tmp_path / "a.png").write_bytes(PICTURE)
    sending = [part.format(file) for part in how]
    assert '"label"' in run(tool("curl"), "-sf", "--noproxy", "*", *sending, str(client.base_url.join("/predict")))
