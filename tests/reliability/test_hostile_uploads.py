"""Hostile uploads against a served process, and against the decoder alone: what reads them, and what they cost."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, MpoImagePlugin

from app.errors import FusionLensError, PictureTooLarge, UnreadablePicture
from app.pictures.decode import Limits, Picture, TargetSizes, decode
from app.pictures.formats import SIGNATURES
from app.pictures.prepare import prepare
from reliability import bombs
from reliability.client import Answer
from reliability.containers import chunk, png
from reliability.hostile import FAMILIES, drawn, hostile_uploads, saved, scene
from reliability.replicas import Replica, running
from reliability.uploads import UploadsReport, attack, fault, right_answer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of bad files, which are meant to be bad
COUNT, MOST_MB = 300, 250
HOST = "127.0.0.7"  # where no other test gets the port that was free a moment ago
# Pillow's loaders for our formats.
LOADERS = {"JpegImageFile", "PngImageFile", "WebPImageFile", "GifImageFile", "TiffImageFile", "BmpImageFile"}
DAMAGES = ("flipped bits", "cut off", "spliced", "wrong lengths", "wrong parts", "wrong header", "two things at once")


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> UploadsReport:
    """What became of a served tiny bundle."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    folder, little = tmp_path_factory.mktemp("hostile"), "10000000"
    replica = Replica(HOST, port, folder, bundle=str(tiny_bundle), store_max_bytes=little)
    with running(replica):
        return attack(replica.address, replica.pid, COUNT)


@pytest.mark.slow
def test_every_upload_is_answered_rightly(report: UploadsReport) -> None:
    assert not report.wrong
    assert report.count == COUNT and report.statuses.keys() == FAMILIES.keys()


@pytest.mark.slow
def test_no_honest_client_is_harmed(report: UploadsReport) -> None:
    assert report.honest_lost == 0 and len(report.beside_ms) > 50


@pytest.mark.slow
def test_memory_stays_bounded(report: UploadsReport) -> None:
    assert report.grown_mb < MOST_MB


def test_uploads_are_made_again_by_their_seed() -> None:
    first, again, other = (list(islice(hostile_uploads(seed), 45)) for seed in (3, 3, 4))
    assert first == again
    assert {upload.family for upload in first} == FAMILIES.keys()
    assert sum(one.data != another.data for one, another in zip(first, other, strict=True)) > 30


PICTURE = ("picture", [64, 96])
SOUND = '{"type":"urn:fusionlens:problem:unreadable-picture","title":"","status":422,"detail":"damaged"}'
WRONG: dict[str, tuple[Answer, tuple[str, list[int]]]] = {
    "no JSON": (Answer(422, "application/problem+json", "", 1), ("unreadable-picture", [])),
    "no answer": (Answer(0, "", "timed out", 1), PICTURE),
    "a failure": (Answer(500, "application/problem+json", SOUND.replace("422", "500"), 1), ("unreadable-picture", [])),
    "a picture where there is none": (Answer(200, "application/json", "{}", 1), ("unreadable-picture", [])),
    "another size": (Answer(200, "", '{"picture": {"width_px": 1, "height_px": 96}}', 1), PICTURE),
    "a refusal of a picture": (Answer(422, "application/problem+json", SOUND, 1), PICTURE),
    "another problem": (Answer(422, "application/problem+json", SOUND, 1), ("picture-too-large", [])),
    "no problem+json": (Answer(422, "application/json", SOUND, 1), ("unreadable-picture", [])),
    "no advice": (
        Answer(422, "application/problem+json", SOUND.replace("damaged", ""), 1),
        ("unreadable-picture", []),
    ),
    "a traceback": (
        Answer(422, "application/problem+json", SOUND.replace("damaged", 'File \\"a.py\\", line 3'), 1),
        ("unreadable-picture", []),
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_called_wrong(kind: str) -> None:
    assert fault(*WRONG[kind])
    assert not fault(Answer(422, "application/problem+json", SOUND, 1), ("unreadable-picture", []))
    assert not fault(Answer(200, "", '{"picture": {"width_px": 96, "height_px": 64}}', 1), PICTURE)


def outcome(data: bytes) -> Picture | FusionLensError:
    """What became of an upload; anything but a picture that can be prepared, or an error of ours, gets out."""
    try:
        picture = decode(data, Limits(), TargetSizes((32, 32)))
    except FusionLensError as error:
        return error
    assert picture.image.mode == "RGB" and prepare(picture, (32, 32)).image.shape == (32, 32, 3)
    return picture


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of Pillow's loaders that were begun, while those of other formats are there and fail."""
    names: set[str] = set()
    begin: Callable[..., None] = ImageFile.ImageFile.__init__
    Image.init()

    def noted(self: ImageFile.ImageFile, *args: Any, **options: Any) -> None:
        names.add(type(self).__name__)
        begin(self, *args, **options)

    def refused(*args: Any, **options: Any) -> None:
        names.add("of another format")
        raise RuntimeError("this loader must not be reached")

    monkeypatch.setattr(ImageFile.ImageFile, "__init__", noted)
    for kind in Image.OPEN.keys() - SIGNATURES.keys():
        monkeypatch.setitem(Image.OPEN, kind, (refused, None))
    return names


def test_no_loader_of_another_format_is_reached(opened: set[str]) -> None:
    for upload in islice(hostile_uploads(1), 600):
        outcome(upload.data)
    assert opened == LOADERS


def test_a_jpeg_of_two_frames_is_read_as_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    adopt = Mock(wraps=MpoImagePlugin.MpoImageFile.adopt)
    monkeypatch.setattr(MpoImagePlugin.MpoImageFile, "adopt", adopt)
    assert isinstance(outcome(drawn()["JPEG of two frames"]), Picture)
    assert not adopt.called


def test_a_picture_without_its_palette_is_damaged_even_if_it_is_transparent() -> None:
    pixels = zlib.compress(bytes([0, 0, 1]))
    without = png(2, 1, pixels, chunk(b"tRNS", b"\x80\xff"), colour=3)
    assert isinstance(outcome(without), UnreadablePicture)


def test_a_file_of_another_format_behind_a_signature_is_no_picture() -> None:
    other = saved(scene(32, 32), "PCX")
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"):
        assert isinstance(outcome(start + other), FusionLensError)


@given(family=st.sampled_from(DAMAGES), rng=st.randoms(use_true_random=False), twice=st.booleans())
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
def test_damage_to_the_structure_ends_in_a_picture_or_an_error_of_ours(family: str, rng: Random, twice: bool) -> None:
    data = FAMILIES[family](rng, list(drawn().values()))
    if twice and family in ("wrong lengths", "wrong header", "flipped bits"):
        data = FAMILIES[family](rng, [data])
    said = outcome(data)
    if isinstance(said, UnreadablePicture) and "is not supported" in str(said):
        return  # a layout that Pillow would misread, or too large besides
    name, _ = right_answer(data, Limits())
    assert isinstance(said, Picture) == (name == "picture"), (name, said)
    assert name != "picture-too-large" or isinstance(said, PictureTooLarge)


def exif_of(kind: str) -> bytes:
    """A picture with 60,000 EXIF tags."""
    return saved(scene(8, 8), kind, exif=b"Exif\0\0" + bombs.many_entries(1))


BOMBS: dict[str, Callable[[], bytes]] = {
    "400 million pixels": bombs.whole_png,
    "frames of GIF": lambda: bombs.frames("GIF", 20_000),
    "frames of PNG": lambda: bombs.frames("PNG", 20_000),
    "frames of WebP": lambda: bombs.frames("WEBP", 5_000),
    "frames of TIFF": lambda: bombs.frames("TIFF", 20_000),
    "100 MB of text": lambda: bombs.packed(b"zTXt", 100),
    "100 MB of profile": lambda: bombs.packed(b"iCCP", 100),
    "100 MB of pixels for 16": lambda: bombs.packed(b"IDAT", 100),
}
COSTLY: dict[str, Callable[[], bytes]] = {
    "1000 MB of texts": bombs.many_texts,
    "entries of TIFF": lambda: bombs.many_entries(1),
    "entries with values": lambda: bombs.many_entries(100),
    "entries of EXIF in PNG": lambda: exif_of("PNG"),
    "entries of EXIF in WebP": lambda: exif_of("WEBP"),
    "strips of TIFF": lambda: bombs.many_strips(100_000, shared=False),
}


def cost_ms(data: bytes) -> float:
    """The least CPU time that it takes to see what an upload is, of three times."""
    spent = []
    for _ in range(3):
        began = time.thread_time()
        outcome(data)
        spent.append((time.thread_time() - began) * 1e3)
    return min(spent)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_next_to_nothing(bomb: str) -> None:
    assert cost_ms(BOMBS[bomb]()) < 100


@pytest.mark.parametrize("bomb", COSTLY)
def test_a_bomb_of_many_small_things_costs_next_to_nothing(bomb: str) -> None:
    assert cost_ms(COSTLY[bomb]()) < 100
