"""Whatever is uploaded, the outcome is a picture or an error of ours that says what is wrong, at a bounded price."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import EmptyUpload, FusionLensError, PictureTooLarge, UnreadablePicture, UnsupportedMediaType
from app.pictures.decode import Limits, Picture, decode
from app.pictures.formats import SIGNATURES
from app.pictures.prepare import prepare
from tests.support.pictures import chunk, encoded, exif, png

OTHER_FORMATS = {
    "text": b"This is a letter, whatever its name says.",
    "PDF": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "ICO": encoded(Image.new("RGB", (16, 16)), "ICO"),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(64),
    "WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
    "PPM": encoded(Image.new("RGB", (4, 4)), "PPM"),
}


@cache
def noise(format_name: str) -> bytes:
    """A drawn file of the format, too rough to be compressed into a few bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    return encoded(
        Image.fromarray(pixels), format_name, **({"exif": exif(6)} if format_name in ("JPEG", "PNG") else {})
    )


def test_an_empty_upload_is_said_to_be_empty() -> None:
    with pytest.raises(EmptyUpload, match="empty"):
        decode(b"", Limits())


@pytest.mark.parametrize("data", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_what_is_no_picture_in_our_formats_is_refused_with_their_names(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="JPEG, PNG, WEBP, GIF, TIFF, BMP"):
        decode(data, Limits())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("format_name", SIGNATURES)
def test_a_picture_that_was_cut_off_is_said_to_be_so(format_name: str, share: float) -> None:
    whole = noise(format_name)
    decode(whole, Limits())
    with pytest.raises(UnreadablePicture, match=f"{format_name} picture is damaged or cut off"):
        decode(whole[: int(share * len(whole))], Limits())


@pytest.mark.parametrize("place", range(16, 29))
def test_a_flipped_byte_in_a_png_header_is_noticed(place: int) -> None:
    damaged = bytearray(noise("PNG"))
    damaged[place] ^= 0xFF
    with pytest.raises(UnreadablePicture, match="PNG picture is damaged"):
        decode(bytes(damaged), Limits())


def test_a_palette_that_is_missing_is_damage() -> None:
    with pytest.raises(UnreadablePicture, match="damaged"):
        decode(png(2, 1, 8, 3, bytes([0, 1, 2])), Limits())


@pytest.mark.parametrize(("mode", "values"), [("I", "32-bit signed"), ("F", "32-bit floating-point")])
def test_pixels_without_an_agreed_range_are_refused_with_advice(mode: str, values: str) -> None:
    with pytest.raises(UnreadablePicture, match=f"{values} values is not supported: scale .* and convert"):
        decode(encoded(Image.new(mode, (4, 4)), "TIFF"), Limits())


def declaring(format_name: str, width: int, height: int) -> bytes:
    """A small file whose header declares this size; there are far too few pixels behind it."""
    data = bytearray(noise(format_name))
    if format_name == "PNG":
        return png(width, height, 8, 2, bytes(100))
    if format_name == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", height, width)
    elif format_name == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif format_name == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif format_name == "WEBP":
        data[12:30] = b"VP8X" + struct.pack("<LL", 10, 0) + struct.pack("<LL", width - 1, height - 1)[:3] + b"..."
    return bytes(data)


SIZES = {
    "20,000 x 20,000": (20_000, 20_000),
    "10,000 x 10,000": (10_000, 10_000),
    "7,500 x 7,500": (7_500, 7_500),
    "one long side": (20_000, 1),
    "one high side": (1, 20_000),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_huge_picture_is_refused_by_its_header(format_name: str, size: tuple[int, int]) -> None:
    """With no pixels behind the header, decoding first would find a damaged picture."""
    pixels = "50 million pixels" if format_name == "JPEG" else "25 million pixels"
    with pytest.raises(PictureTooLarge, match=f"{pixels} and 16384 px a side: send a smaller one"):
        decode(declaring(format_name, *size), Limits())


@contextmanager
def cheap(cpu_s: float, traced_bytes: int) -> Iterator[None]:
    """What stands inside takes no more CPU time and no more of Python's memory."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < cpu_s
        assert tracemalloc.get_traced_memory()[1] < traced_bytes
    finally:
        tracemalloc.stop()


def test_a_whole_picture_of_400_million_pixels_costs_nothing() -> None:
    bomb = png(20_000, 20_000, 1, 0, bytes(20_000 * 2_501))
    assert len(bomb) < 100_000
    with cheap(cpu_s=0.1, traced_bytes=1_000_000), pytest.raises(PictureTooLarge):
        decode(bomb, Limits())


def test_a_gif_whose_frame_is_larger_than_its_screen_is_measured_by_the_frame() -> None:
    small = bytearray(encoded(Image.new("L", (4, 4), 9), "GIF"))
    frame = small.index(b",\0\0\0\0\4\0\4\0")
    small[frame + 5 : frame + 9] = struct.pack("<HH", 7_500, 7_500)
    with pytest.raises(PictureTooLarge, match="7500 × 7500 px"):
        decode(bytes(small), Limits())


def test_a_real_decompression_bomb_is_refused(shared_data: Path) -> None:
    with pytest.raises(PictureTooLarge):
        decode((shared_data / "awkward" / "decompression_bomb.gif").read_bytes(), Limits())


def test_limits_are_met_exactly() -> None:
    data = encoded(Image.new("L", (40, 30)), "PNG")
    assert decode(data, Limits(max_pixels=1_200, max_side_px=40)).image.size == (40, 30)
    with pytest.raises(PictureTooLarge, match=r"40 × 30 px.*0\.001199 million pixels"):
        decode(data, Limits(max_pixels=1_199))
    with pytest.raises(PictureTooLarge, match="39 px a side"):
        decode(data, Limits(max_side_px=39))


def test_a_limit_that_pillow_would_undercut_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 178956970"):
        Limits(max_pixels=400_000_000)
    with pytest.raises(ValueError, match="at most 178956970"):
        Limits(max_full_pixels=400_000_000)


TEXT_BOMBS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000))),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(20_000_000))),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(20_000_000))),
    "5000 x zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(500_000))) * 5_000,
}


@pytest.mark.parametrize("bomb", TEXT_BOMBS.values(), ids=TEXT_BOMBS)
def test_a_text_bomb_is_refused_or_ignored_cheaply(bomb: bytes) -> None:
    data = png(2, 1, 8, 0, bytes([0, 7, 9]), bomb)
    with cheap(cpu_s=5, traced_bytes=150_000_000):
        outcome(data)


def outcome(data: bytes) -> Picture | FusionLensError:
    """What became of an upload; anything but a picture that can be prepared, or an error of ours, gets out."""
    try:
        picture = decode(data, Limits(max_pixels=1_000_000))
    except FusionLensError as error:
        return error
    assert picture.image.mode == "RGB" and prepare(picture, (8, 8)).image.shape == (8, 8, 3)
    return picture


def noisy_uploads() -> dict[str, bytes]:
    """Uploads that Pillow warns about."""
    cut_exif = exif(6).tobytes()[:30]
    described = encoded(Image.new("RGB", (8, 8)), "TIFF", tiffinfo={270: "a description"})
    return {
        "damaged EXIF": encoded(Image.new("RGB", (8, 8)), "JPEG", exif=cut_exif),
        "large picture": declaring("PNG", 10_000, 10_000),
        "damaged TIFF tag": described.replace(struct.pack("<HHL", 270, 2, 14), struct.pack("<HHL", 270, 2, 3_000_000)),
        "damaged APNG": png(2, 1, 8, 0, bytes([0, 7, 9]), chunk(b"acTL", bytes(8))),
    }


@pytest.mark.parametrize("name", noisy_uploads())
def test_pillows_warnings_are_neither_logged_nor_errors(name: str) -> None:
    data = noisy_uploads()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(Warning), suppress(OSError):
            Image.open(io.BytesIO(data)).getexif()
    with warnings.catch_warnings(record=True) as logged:
        warnings.simplefilter("always")
        expected = outcome(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(outcome(data)) is type(expected)
    assert not logged


def test_other_warnings_are_still_given_and_given_once() -> None:
    def warn() -> None:
        warnings.warn("mind this", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as logged:
        warnings.simplefilter("default")
        for _ in range(3):
            decode(noise("PNG"), Limits())
            warn()
    assert [str(warning.message) for warning in logged] == ["mind this"]


def with_right_checksums(data: bytes) -> bytes:
    """A mutated PNG as its own author would have written it, so that the damage is met behind the checksums."""
    whole, place = data[:8], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 8 : place + 8 + length]
        whole += chunk(data[place + 4 : place + 8], body)
        place += 12 + length
    return whole


@cache
def seeds() -> dict[str, bytes]:
    rough = Image.open(io.BytesIO(noise("BMP"))).resize((9, 7))
    again: dict[str, Any] = {"save_all": True, "append_images": [rough.rotate(180)]}
    modes = {f"PNG {mode}": encoded(rough.convert(mode), "PNG") for mode in ("1", "P", "LA", "RGBA", "I;16")}
    packed = {f"TIFF {name}": encoded(rough, "TIFF", compression=name) for name in ("tiff_lzw", "packbits", "jpeg")}
    moving = {f"animated {name}": encoded(rough, name, **again) for name in ("GIF", "PNG", "WEBP", "TIFF")}
    plain = {name: encoded(rough, name) for name in SIGNATURES}
    photo = {f"{name} of a camera": encoded(rough, name, exif=exif(6)) for name in ("JPEG", "PNG", "WEBP", "TIFF")}
    return plain | modes | packed | moving | photo


def test_an_animation_may_break_off_anywhere() -> None:
    whole = seeds()["animated GIF"]
    kinds = {type(outcome(whole[:kept])) for kept in range(20, len(whole) + 1)}
    assert kinds == {UnreadablePicture, Picture}


@given(
    name=st.sampled_from(sorted(seeds())),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    near_the_start=st.booleans(),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
def test_damage_of_any_kind_ends_in_a_picture_or_an_error_of_ours(
    name: str, changes: list[tuple[float, int]], near_the_start: bool, kept: float
) -> None:
    data = bytearray(seeds()[name])
    for share, byte in changes:
        data[int(share**2 * min(len(data), 120)) if near_the_start else int(share * len(data))] = byte
    damaged = bytes(data[: int(kept * len(data))])
    outcome(with_right_checksums(damaged) if "PNG" in name else damaged)
