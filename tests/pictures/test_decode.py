"""Every kind of picture becomes upright 8-bit RGB, and the sender is told what was left out."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from app.errors import PictureTooLarge, UnreadablePicture, UnsupportedMediaType
from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare
from tests.support.pictures import ORIENTATION, Rgb, blocks, chunk, encoded, exif, png, turned

LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
SHARPEST_JPEG = {"quality": 100, "subsampling": 0}


def decoded(data: bytes) -> Rgb:
    return np.asarray(decode(data, Limits()).image)


def difference(got: Rgb, expected: Any) -> int:
    """The largest difference in grey levels."""
    assert got.shape == np.shape(expected)
    return int(np.abs(got.astype(int) - np.asarray(expected).astype(int)).max())


def on_white(grey: Any, alpha: Any) -> Any:
    return np.rint(np.asarray(grey) * (np.asarray(alpha) / 255) + 255 * (1 - np.asarray(alpha) / 255))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_upright(format_name: str, orientation: int) -> None:
    stored = Image.fromarray(turned(blocks(), orientation))
    options = LOSSLESS.get(format_name, SHARPEST_JPEG)
    data = encoded(stored, format_name, exif=exif(orientation), **options)
    assert difference(decoded(data), blocks()) <= (2 if format_name == "JPEG" else 0)
    assert difference(decoded(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) == 0


def damaged_exif() -> Iterator[Any]:
    # "Exif\0\0", then a TIFF file: byte order, offset of the first directory, count, entries of 12 bytes.
    whole = exif(6).tobytes()
    entry = struct.pack(">HHLHH", ORIENTATION, 3, 1, 6, 0)
    assert whole.startswith(b"Exif\0\0MM\0*\0\0\0\x08") and whole.count(entry) == 1
    text = struct.pack(">HHL4s", ORIENTATION, 2, 4, b"six\0")
    yield pytest.param(whole[:10], id="cut in its header")
    yield pytest.param(whole[:14], id="cut before its directory")
    yield pytest.param(whole[:30], id="cut in its directory")
    yield pytest.param(b"Exif\0\0" + b"no EXIF at all, but something long enough", id="garbage")
    yield pytest.param(b"Exif\0\0" + struct.pack("<4sLHL", b"XX*\0", 8, 0, 0), id="unknown byte order")
    yield pytest.param(whole.replace(b"\0\0\0\x08", b"\x7f\xff\xff\xff", 1), id="directory far outside")
    yield pytest.param(whole.replace(entry, text), id="orientation is a text")
    yield pytest.param(whole.replace(entry, entry.replace(b"\0\x06", b"\0\x09")), id="orientation is 9")


@pytest.mark.parametrize("block", list(damaged_exif()))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_a_picture_with_damaged_exif_opens_as_upright_and_says_so(format_name: str, block: bytes) -> None:
    data = encoded(Image.fromarray(blocks()), format_name, exif=block, **LOSSLESS.get(format_name, SHARPEST_JPEG))
    assert difference(decoded(data), blocks()) <= (2 if format_name == "JPEG" else 0)
    assert decode(data, Limits()).notes == ("The EXIF data is damaged; the picture was taken as upright.",)


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", exif(1)], ids=["none", "empty", "whole"])
def test_exif_that_is_not_damaged_is_not_talked_about(block: bytes | Image.Exif) -> None:
    assert decode(encoded(Image.fromarray(blocks()), "JPEG", exif=block), Limits()).notes == ()


def test_no_metadata_survives() -> None:
    options = {"exif": exif(6), "comment": b"at home", "icc_profile": b"x" * 200}
    image = decode(encoded(Image.fromarray(blocks()), "JPEG", **options), Limits()).image
    assert image.info == {} and not image.getexif()


def eight_bit_kinds() -> Iterator[Any]:
    grey = np.array([[0, 60, 120], [180, 240, 255]], np.uint8)
    alpha = np.array([[255, 128, 0], [0, 200, 255]], np.uint8)
    colour = np.stack([grey, grey[::-1], 255 - grey], axis=-1)
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    rgba = Image.fromarray(np.dstack([colour, alpha]))
    palette = Image.new("P", (3, 2))
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 250, 0])
    palette.putdata([0, 1, 2, 2, 1, 0])
    look_up = np.array([(10, 20, 30), (200, 100, 50), (0, 250, 0)])[[[0, 1, 2], [2, 1, 0]]]
    see_through = look_up.copy()
    see_through[look_up[..., 0] == 200] = 255
    two_level = np.array([[True, False, True], [False, False, True]])
    pa = Image.merge("LA", [Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8)), Image.fromarray(alpha)])
    pa_palette = Image.frombytes("PA", pa.size, pa.tobytes())
    pa_palette.putpalette(palette.getpalette() or [])
    white_grey, white_colour = on_white(grey, alpha), on_white(colour, alpha[..., None])
    yield pytest.param(encoded(Image.fromarray(colour), "BMP"), colour, id="BMP")
    yield pytest.param(encoded(Image.fromarray(grey), "PNG"), np.dstack([grey] * 3), id="grey PNG")
    yield pytest.param(encoded(Image.fromarray(two_level), "PNG"), np.dstack([two_level * 255] * 3), id="1-bit PNG")
    yield pytest.param(encoded(palette, "GIF"), look_up, id="GIF")
    yield pytest.param(encoded(palette, "PNG", transparency=1), see_through, id="palette with a transparent colour")
    yield pytest.param(encoded(palette, "GIF", transparency=1), see_through, id="GIF with a transparent colour")
    yield pytest.param(
        encoded(palette, "PNG", transparency=bytes([255, 51, 0])),
        on_white(look_up, np.array([255, 51, 0])[[[0, 1, 2], [2, 1, 0]]][..., None]),
        id="palette with alpha",
    )
    yield pytest.param(encoded(la, "PNG"), np.dstack([white_grey] * 3), id="grey with alpha")
    yield pytest.param(encoded(pa_palette, "TIFF"), on_white(look_up, alpha[..., None]), id="palette and alpha TIFF")
    yield pytest.param(encoded(rgba, "PNG"), white_colour, id="RGBA PNG")
    yield pytest.param(encoded(rgba, "TIFF"), white_colour, id="RGBA TIFF")
    yield pytest.param(encoded(rgba, "WEBP", lossless=True, exact=True), white_colour, id="RGBA WebP")
    keyed = png(2, 1, 8, 2, bytes([0, 1, 2, 3, 4, 5, 6]), chunk(b"tRNS", struct.pack(">3H", 4, 5, 6)))
    yield pytest.param(keyed, [[(1, 2, 3), (255, 255, 255)]], id="RGB with a transparent colour")
    ink = Image.fromarray(np.dstack([colour, np.full_like(grey, 51)]), "RGBA")
    cmyk = Image.frombytes("CMYK", ink.size, ink.tobytes())
    yield pytest.param(encoded(cmyk, "TIFF"), np.rint((255 - colour.astype(int)) * 0.8), id="CMYK TIFF")


def sixteen_bit_kinds() -> Iterator[Any]:
    deep = np.array([[0, 257 * 51, 32_768, 65_535]], np.uint16)
    grey = np.array([[[0] * 3, [51] * 3, [128] * 3, [255] * 3]])
    little, big = (
        Image.frombytes(mode, (4, 1), deep.astype(t).tobytes()) for mode, t in (("I;16", "<u2"), ("I;16B", ">u2"))
    )
    yield pytest.param(encoded(little, "PNG"), grey, id="grey PNG")
    yield pytest.param(encoded(little, "TIFF"), grey, id="grey TIFF, little endian")
    yield pytest.param(encoded(big, "TIFF"), grey, id="grey TIFF, big endian")
    yield pytest.param(encoded(little, "TIFF", compression="tiff_lzw"), grey, id="grey TIFF, compressed")
    white_is_zero = retagged(encoded(little, "TIFF"), {262: (1, 0)})
    yield pytest.param(white_is_zero, 255 - grey, id="grey TIFF, 0 is white")
    twelve = Image.frombytes("L", (6, 1), bytes([0x00, 0x03, 0x33, 0x80, 0x0F, 0xFF]))
    yield pytest.param(retagged(encoded(twelve, "TIFF"), {256: (6, 4), 258: (8, 12)}), grey, id="12-bit grey TIFF")
    rgb = deep[..., [0, 1, 3, 3, 1, 0]].reshape(1, 2, 3)
    rows = b"\0" + rgb.astype(">u2").tobytes()
    yield pytest.param(png(2, 1, 16, 2, rows), [[(0, 51, 255), (255, 51, 0)]], id="RGB PNG")


def retagged(tiff: bytes, changes: dict[int, tuple[int, int]]) -> bytes:
    """A little-endian TIFF with other numbers in its directory: {tag: (old, new)}."""
    for tag, (old, new) in changes.items():
        kinds = [
            (kind, size) for kind, size in ((3, "H"), (4, "L")) if struct.pack(f"<HHL{size}", tag, kind, 1, old) in tiff
        ]
        [(kind, size)] = kinds
        tiff = tiff.replace(
            struct.pack(f"<HHL{size}", tag, kind, 1, old), struct.pack(f"<HHL{size}", tag, kind, 1, new)
        )
    return tiff


@pytest.mark.parametrize(("data", "expected"), list(eight_bit_kinds()))
def test_every_colour_mode_becomes_rgb_on_white(data: bytes, expected: Any) -> None:
    assert difference(decoded(data), expected) <= 1


@pytest.mark.parametrize(("data", "expected"), list(sixteen_bit_kinds()))
def test_sixteen_bits_are_scaled_not_clipped(data: bytes, expected: Any) -> None:
    assert difference(decoded(data), expected) == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_jpeg_is_read(options: dict[str, bool]) -> None:
    assert difference(decoded(encoded(Image.fromarray(blocks()), "JPEG", **SHARPEST_JPEG, **options)), blocks()) <= 2


def test_cmyk_jpeg_is_read() -> None:
    cmyk = Image.fromarray(255 - blocks()).convert("RGB")
    separated = Image.merge("CMYK", [*cmyk.split(), Image.new("L", cmyk.size, 0)])
    assert difference(decoded(encoded(separated, "JPEG", quality=100, subsampling=0)), blocks()) <= 3


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_only_the_first_frame_is_used_and_the_sender_is_told(format_name: str) -> None:
    first, second = Image.new("RGB", (8, 6), (200, 30, 30)), Image.new("RGB", (8, 6), (30, 30, 200))
    data = encoded(first, format_name, save_all=True, append_images=[second], **LOSSLESS.get(format_name, {}))
    assert difference(decoded(data), np.asarray(first)) == 0
    assert decode(data, Limits()).notes == ("The file holds several frames; only the first was used.",)


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (2, 1000)], ids="{0[0]}x{0[1]}".format)
def test_a_very_narrow_picture_is_seen_in_its_middle(size: tuple[int, int]) -> None:
    width, height = size
    grey = np.linspace(0, 255, width * height).reshape(height, width).round().astype(np.uint8)
    picture = decode(encoded(Image.fromarray(grey), "PNG"), Limits())
    assert (picture.width_px, picture.height_px) == size
    seen = prepare(picture, (8, 8)).image
    middle = grey[(height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1]
    assert seen.shape == (8, 8, 3) and abs(float(seen.mean()) - middle.mean()) <= 1


REAL: dict[str, tuple[int, int] | type[Exception]] = {
    "exif_orientation_5_portrait.jpg": (450, 600),
    "exif_orientation_3_small.jpg": (128, 128),
    "exif_orientation_6_webp.webp": (128, 128),
    "cmyk.jpg": (100, 100),
    "grey_16bit.png": (128, 128),
    "palette_transparent.png": (162, 150),
    "rgba.png": (162, 150),
    "one_bit.png": (500, 500),
    "progressive.jpg": (256, 160),
    "grey.jpg": (128, 128),
    "photo.webp": (480, 360),
    "animated.gif": (245, 245),
    "truncated_baseline.jpg": UnreadablePicture,
    "broken.png": UnreadablePicture,
    "decompression_bomb.gif": PictureTooLarge,
    "not_an_image.jpg": UnsupportedMediaType,
}


@pytest.mark.parametrize(("name", "outcome"), REAL.items(), ids=REAL)
def test_real_awkward_pictures(shared_data: Path, name: str, outcome: tuple[int, int] | type[Exception]) -> None:
    data = (shared_data / "awkward" / name).read_bytes()
    if isinstance(outcome, type):
        with pytest.raises(outcome):
            decode(data, Limits())
    else:
        assert decode(data, Limits()).image.size == outcome


def test_real_pictures_of_one_person_look_alike_however_they_are_stored(shared_data: Path) -> None:
    """The same portrait: greyscale JPEG, upside-down JPEG, WebP on its side, and 16-bit greyscale."""
    names = ["grey.jpg", "exif_orientation_3_small.jpg", "exif_orientation_6_webp.webp", "grey_16bit.png"]
    portraits = [decoded((shared_data / "awkward" / name).read_bytes()).mean(axis=-1).ravel() for name in names]
    assert np.corrcoef(portraits).min() > 0.97
    assert max(portrait.mean() for portrait in portraits) - min(portrait.mean() for portrait in portraits) < 5


def test_real_photographs_are_read_as_they_are(shared_data: Path) -> None:
    photographs = sorted((shared_data / "photos").glob("*.jpg"))[::30]
    assert len(photographs) == 5
    for path in photographs:
        with Image.open(path) as image:
            assert difference(decoded(path.read_bytes()), np.asarray(image.convert("RGB"))) == 0
