"""Every kind of JPEG is decoded at a reduced scale where it is large, and serving and evaluation agree on the scale."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.bundles.reader import read_bundle
from app.engines.load import load_engine
from app.errors import PictureTooLarge, UnreadablePicture
from app.pictures.decode import Limits, Picture, TargetSizes, decode
from app.pictures.prepare import Frame, prepare
from app.predicting.predictor import Predictor
from app.settings import Settings
from tests.support.pictures import encoded, exif
from training.data.samples import Sample
from training.loading.views import EvaluationSet

SMALL = TargetSizes((32, 32), preview_side_px=64)


def lossless_jpeg(width: int, height: int) -> bytes:
    """ITU-T T.81, process 14: every pixel is as its left neighbour, the first of all is grey."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    codes, scan = bytes([0, 1, *[0] * 15, 0]), bytes([3, 1, 0, 2, 0, 3, 0, 1, 0, 0])
    pixels = bytes(width * height * 3 // 8 + 1)
    return b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, codes) + segment(0xDA, scan) + pixels + b"\xff\xd9"


def kinds() -> Iterator[Any]:
    """A picture of 401 × 303 px in all the ways that a JPEG can hold it, and what it is in RGB."""
    colour = Image.merge("RGB", [Image.radial_gradient("L").rotate(turn).resize((401, 303)) for turn in (0, 90, 45)])
    grey, cmyk = colour.convert("L"), colour.convert("CMYK")
    yield pytest.param(encoded(colour, "JPEG", quality=95), colour, id="4:2:0")
    yield pytest.param(encoded(colour, "JPEG", quality=95, subsampling=1), colour, id="4:2:2")
    yield pytest.param(encoded(colour, "JPEG", quality=95, subsampling=0), colour, id="4:4:4")
    yield pytest.param(encoded(colour, "JPEG", quality=95, progressive=True), colour, id="progressive")
    yield pytest.param(encoded(colour, "JPEG", quality=95, keep_rgb=True), colour, id="stored as RGB")
    yield pytest.param(encoded(grey, "JPEG", quality=95), grey.convert("RGB"), id="grey")
    yield pytest.param(encoded(cmyk, "JPEG", quality=95), cmyk.convert("RGB"), id="CMYK")
    two = {"save_all": True, "append_images": [Image.new("RGB", colour.size)]}
    yield pytest.param(encoded(colour, "MPO", quality=95, **two), colour, id="two pictures in one")


@pytest.mark.parametrize(("data", "expected"), list(kinds()))
def test_every_kind_of_jpeg_is_reduced_and_keeps_its_colours_and_its_size(data: bytes, expected: Image.Image) -> None:
    picture = decode(data, Limits(), SMALL)
    assert picture.image.size == (201, 152) and (picture.width_px, picture.height_px) == (401, 303)
    seen = prepare(picture, SMALL.input_size)
    assert seen.frame == Frame.shortest_side((401, 303), SMALL.input_size)
    assert np.abs(seen.image.astype(int) - prepare(Picture(expected, "JPEG"), SMALL.input_size).image).max() <= 6
    for share in (0.2, 0.4):
        with pytest.raises(UnreadablePicture):
            decode(data[: int(share * len(data))], Limits(), SMALL)


def test_a_lossless_jpeg_is_read_though_it_cannot_be_reduced() -> None:
    picture = decode(lossless_jpeg(400, 304), Limits(), SMALL)
    assert picture.reduced_by == 1 and (np.asarray(picture.image) == np.full((304, 400, 3), 128)).all()


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_other_formats_are_decoded_in_full(format_name: str) -> None:
    data = encoded(Image.radial_gradient("L").resize((400, 300)).convert("RGB"), format_name)
    picture = decode(data, Limits(), SMALL)
    assert picture.reduced_by == 1 and picture.image.tobytes() == decode(data, Limits()).image.tobytes()


def test_limits_are_those_of_the_picture_as_it_was_sent() -> None:
    data = encoded(Image.new("RGB", (401, 303)), "JPEG")
    with pytest.raises(PictureTooLarge, match="401 × 303"):
        decode(data, Limits(max_pixels=401 * 303 - 1), SMALL)


def test_the_service_and_evaluation_see_the_same_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    size = (bundle.manifest.input.height_px, bundle.manifest.input.width_px)
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(Image.effect_noise((4000, 2249), 90), "JPEG", exif=exif(6)))
    preview_side_px = Settings.model_fields["preview_side_px"].default
    upload = Predictor(bundle, load_engine(bundle, "torch"), Limits(), preview_side_px).open(path.read_bytes())
    evaluated = EvaluationSet([Sample(path, "a", None, None, None)], size, None)[0]
    assert np.array_equal(evaluated.permute(1, 2, 0).numpy(), upload.image)
    assert (upload.width_px, upload.height_px) == (2249, 4000)
    with Image.open(io.BytesIO(upload.preview_jpeg)) as drawn:
        assert drawn.size == (576, 1024)
    expected = Frame.shortest_side((2249, 4000), size)
    assert upload.frame == expected
