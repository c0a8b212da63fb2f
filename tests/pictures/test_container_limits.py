"""Small files that would cost much to decode are refused by their structure, before Pillow reads them."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from app.errors import FusionLensError, PictureTooLarge, UnreadablePicture
from app.pictures.container_limits import MAX_EXIF_SEGMENTS, MAX_SCANS, MAX_SEGMENTS, check_container
from app.pictures.decode import Limits, decode
from tests.support.pictures import chunk, encoded

PROGRESSIVE = encoded(Image.effect_noise((64, 48), 60).convert("RGB"), "JPEG", progressive=True, quality=90)
MOST_S = 1.0  # of processor, for one small file


def with_segments(jpeg: bytes, segment: bytes, count: int) -> bytes:
    """The file with the segment repeated behind its start."""
    return jpeg[:2] + count * segment + jpeg[2:]


def with_scans(jpeg: bytes, count: int) -> bytes:
    """The file with its last scan repeated, so that it has `count` in all."""
    starts = [at for at in range(len(jpeg) - 1) if jpeg[at : at + 2] == b"\xff\xda"]
    last = jpeg[starts[-1] : -2]
    return jpeg[:-2] + (count - len(starts)) * last + jpeg[-2:]


def tiff_of_one_tile(side: int, tile_side: int, offset: int = 300) -> bytes:
    """A grey TIFF whose one tile has this side; there is nothing at its offset."""
    entries = ((256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1))
    tiles = ((322, 4, tile_side), (323, 4, tile_side), (324, 16 if offset >= 2**32 else 4, offset), (325, 4, 16))
    directory = b"".join(
        struct.pack("<HHL", tag, kind, 1) + (struct.pack("<L", 200) if kind == 16 else struct.pack("<L", value))
        for tag, kind, value in (*entries, *tiles)
    )
    head = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(entries) + len(tiles)) + directory + bytes(4)
    return head.ljust(200, b"\0") + struct.pack("<Q", offset) + bytes(100)


def test_a_progressive_jpeg_has_room_for_its_scans_and_a_camera_for_its_segments() -> None:
    check_container(with_scans(PROGRESSIVE, MAX_SCANS), "JPEG")
    check_container(with_segments(PROGRESSIVE, b"\xff\xe2\0\x20" + bytes(30), 255), "JPEG")
    assert decode(PROGRESSIVE, Limits()).image.size == (64, 48)


@pytest.mark.parametrize(
    "data",
    [
        with_scans(PROGRESSIVE, MAX_SCANS + 1),
        with_segments(PROGRESSIVE, b"\xff\xe1\0\x08Exif\0\0", MAX_EXIF_SEGMENTS + 1),
        with_segments(PROGRESSIVE, b"\xff\xe1\0\x08Exif\0\0", 60_000),
        with_segments(PROGRESSIVE, b"\xff\xfe\0\x02", MAX_SEGMENTS + 1),
        with_segments(PROGRESSIVE, b"\xff\xff\xff\xfe\0\x02", MAX_SEGMENTS + 1),  # fill bytes before each marker
    ],
    ids=["scans", "EXIF segments", "very many EXIF segments", "comments", "fill bytes"],
)
def test_a_jpeg_of_too_many_parts_is_refused_at_once(data: bytes) -> None:
    began = time.process_time()
    with pytest.raises(PictureTooLarge, match="too many scans, segments"):
        decode(data, Limits())
    assert time.process_time() - began < MOST_S


def test_a_tile_much_larger_than_its_picture_is_refused_and_a_usual_one_is_not() -> None:
    for tile_side in (26_752, 8_192, 4_096):
        with pytest.raises(PictureTooLarge, match=f"tile.* {tile_side} × {tile_side} px"):
            decode(tiff_of_one_tile(64, tile_side), Limits())
    with pytest.raises(UnreadablePicture):  # the tile may be so large, but it is not there
        decode(tiff_of_one_tile(64, 256), Limits())


def test_an_offset_that_no_file_has_is_damage() -> None:
    with pytest.raises(UnreadablePicture):
        decode(tiff_of_one_tile(64, 64, offset=2**63 + 8), Limits())


def test_a_text_chunk_with_the_name_of_the_exif_data_is_only_noted() -> None:
    drawn = encoded(Image.new("RGB", (8, 8), "red"), "PNG")
    text = chunk(b"zTXt", b"exif\0\0" + zlib.compress(b"a letter"))
    picture = decode(drawn[:33] + text + drawn[33:], Limits())
    assert picture.notes == ("The EXIF data is damaged; the picture was taken as upright.",)


def test_real_hostile_files_cost_next_to_nothing(shared_data: Path) -> None:
    files = [file for file in sorted((shared_data / "hostile").iterdir()) if file.suffix not in (".md", ".webp")]
    assert files
    for file in files:
        began = time.process_time()
        try:
            decode(file.read_bytes(), Limits())
        except FusionLensError as error:
            assert str(error).endswith((".", "px")), file.name
        assert time.process_time() - began < MOST_S, file.name
