"""Pictures that a model of skin lesions was not made for, by kind: files of others, and pictures made here from a seed.

Near kinds are made from pictures of skin themselves, or could be sent by mistake. Every picture is the model's input,
uint8 `[h, w, 3]`.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from app.errors import FusionLensError
from app.pictures.decode import Limits
from app.pictures.opened import OpenOptions, open_picture
from app.shapes import Int, UInt8
from training.data.draw import APPEARANCES, draw_lesion

Picture = UInt8[np.ndarray, "h w 3"]
SIDE_PX = 224
# The score is chosen on the first kinds, and judged on the second ones and on the other half of the photographs.
CHOSEN_ON = ("one colour", "blurred skin", "screenshots", "drawn lesions")
JUDGED_ON = ("black", "white", "inverted skin", "colour-shifted skin", "cropped skin", "awkward files")
PHOTOGRAPHS = "photographs"
FAR = (PHOTOGRAPHS, "awkward files")
_WORDS = (
    "answer",
    "archive",
    "benign",
    "camera",
    "copy",
    "edit",
    "file",
    "help",
    "lens",
    "model",
    "open",
    "save",
    "search",
)


def opened(files: Iterable[Path]) -> Iterator[tuple[Path, Picture]]:
    """The files that the service takes, as the model sees them."""
    options = OpenOptions((SIDE_PX, SIDE_PX), Limits(), SIDE_PX)
    for file in files:
        try:
            yield file, open_picture(file.read_bytes(), options).image
        except FusionLensError:
            continue


def in_first_half(name: str) -> bool:
    """Half of all names, by their hash, so that the halves do not depend on what else there is."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def made(count: int, seed: int) -> dict[str, list[Picture]]:
    """The kinds that are drawn from random numbers, `count` pictures each."""
    rng = np.random.default_rng(seed)
    labels = [list(APPEARANCES)[index % len(APPEARANCES)] for index in range(count)]
    return {
        "one colour": [_flat(rng, rng.integers(0, 256, 3)) for _ in range(count)],
        "black": [_flat(rng, rng.integers(0, 6, 1)) for _ in range(count)],
        "white": [_flat(rng, rng.integers(250, 256, 1)) for _ in range(count)],
        "screenshots": [_screenshot(rng) for _ in range(count)],
        "drawn lesions": [draw_lesion(rng, label, SIDE_PX).image for label in labels],
    }


def changed(skin: Sequence[Picture], seed: int) -> dict[str, list[Picture]]:
    """The kinds that are made from pictures of skin, one of each picture."""
    rng = np.random.default_rng(seed)
    changes: Mapping[str, Callable[[np.random.Generator, Picture], Picture]] = {
        "blurred skin": _blurred,
        "inverted skin": lambda rng, picture: np.asarray(255 - picture),
        "colour-shifted skin": _shifted,
        "cropped skin": _cropped,
    }
    return {kind: [change(rng, picture) for picture in skin] for kind, change in changes.items()}


def _flat(rng: np.random.Generator, colour: Int[np.ndarray, " channels"]) -> Picture:
    """One colour with a sensor's noise."""
    noisy = colour + rng.normal(0, 1, (SIDE_PX, SIDE_PX, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _screenshot(rng: np.random.Generator) -> Picture:
    """A window with a title, a side bar and lines of text, light or dark."""
    dark = rng.random() < 0.3
    paper, ink = ((30, 32, 36), (225, 225, 225)) if dark else ((250, 250, 250), (30, 30, 30))
    accent = tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(rng.random(), 0.7, 0.8))
    picture = Image.new("RGB", (SIDE_PX * 2, SIDE_PX * 2), paper)
    draw, bar = ImageDraw.Draw(picture), int(rng.integers(0, 120))
    draw.rectangle((0, 0, 2 * SIDE_PX, 34), fill=accent)
    draw.rectangle((0, 34, bar, 2 * SIDE_PX), fill=tuple(int(0.85 * value + 15) for value in paper))
    font = ImageFont.load_default(int(rng.integers(11, 22)))
    line_px = int(rng.integers(18, 34))
    for top in range(44, 2 * SIDE_PX, line_px):
        words = " ".join(rng.choice(_WORDS, int(rng.integers(2, 12))))
        draw.text((bar + 12, top), words, fill=accent if rng.random() < 0.1 else ink, font=font)
        if bar > 60:
            draw.text((8, top), str(rng.choice(_WORDS)), fill=ink, font=font)
    return np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


def _blurred(rng: np.random.Generator, picture: Picture) -> Picture:
    """Out of focus: a Gaussian with a radius of 3 to 6 % of the side."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(rng.uniform(0.03, 0.06) * SIDE_PX)))


def _shifted(rng: np.random.Generator, picture: Picture) -> Picture:
    """All hues turned by 90° to 270°."""
    hue, saturation, value = Image.fromarray(picture).convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(rng.integers(64, 192))  # wraps at 256, as hues do
    return np.asarray(Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB"))


def _cropped(rng: np.random.Generator, picture: Picture) -> Picture:
    """A square of an eighth of the side, enlarged."""
    side = SIDE_PX // 8
    left, top = rng.integers(0, SIDE_PX - side, 2)
    cut = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(cut.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
