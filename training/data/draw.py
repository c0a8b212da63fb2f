"""Synthetic pictures of skin lesions with their masks, drawn from random numbers.

They replace real pictures in tests and examples, where a labelled data set must be small, free to share and
reproducible. After the ABCD rule of dermatoscopy (Stolz et al. 1994), benign lesions have a regular border and one
colour, and malignant lesions have an irregular border, several colours and dark spots. A lesion's darkness and size do
not depend on its label. Results on these pictures say nothing about real skin.
"""

from __future__ import annotations

import csv
import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from app.shapes import Bool, Float32, UInt8
from training.output import naming, write_atomically

Field = Float32[np.ndarray, "h w"]
Colours = Float32[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class DrawnPicture:
    """A synthetic RGB picture and the mask of its lesion."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Appearance:
    """How lesions with a label look. Each pair is the range from which a lesion's value is drawn."""

    roughness: tuple[float, float]  # standard deviation of the border's radius, as a share of the radius
    colours: tuple[int, int]
    spots: tuple[int, int]


APPEARANCES = {
    "benign": Appearance(roughness=(0.01, 0.04), colours=(1, 1), spots=(0, 2)),
    "malignant": Appearance(roughness=(0.07, 0.16), colours=(2, 3), spots=(4, 10)),
}
_SKIN = np.array([(238, 205, 188), (226, 172, 158), (206, 152, 132), (204, 178, 186), (228, 188, 160)], np.float32)
_PIGMENT = np.array([(150, 98, 70), (118, 72, 54), (82, 50, 44), (170, 104, 98), (112, 92, 100)], np.float32)
_PIGMENT_ODDS = np.array([0.3, 0.3, 0.2, 0.15, 0.05])


def draw_lesion(rng: np.random.Generator, label: str, size_px: int = 224) -> DrawnPicture:
    """Draw one lesion on skin, `size_px` high and wide. The same state of `rng` gives the same picture.

    Raises ValueError for a label that is not in `APPEARANCES`.
    """
    if label not in APPEARANCES:
        raise ValueError(f"unknown label {label!r}: choose one of {', '.join(APPEARANCES)}")
    appearance = APPEARANCES[label]
    depth = _depth(rng, size_px, rng.uniform(*appearance.roughness))
    softness = rng.uniform(0.04, 0.12) * (1.2 + np.tanh(_noise(rng, size_px, 4)))
    mottling = 1 + 0.06 * _noise(rng, size_px, 10) + 0.05 * _noise(rng, size_px, 35)
    opacity = np.minimum(1, rng.uniform(0.65, 0.95) * mottling) * _smooth_step(depth / softness / 2 + 0.5)
    pigment = _pigment(rng, depth, int(rng.integers(*appearance.colours, endpoint=True)))
    pigment *= _spots(rng, depth, int(rng.integers(*appearance.spots, endpoint=True)))[..., None]
    picture = _skin(rng, size_px)
    picture += opacity[..., None] * (pigment - picture)
    if rng.random() < 0.35:
        _add_hairs(rng, picture)
    picture = cv2.GaussianBlur(picture * _light(rng, size_px)[..., None], (0, 0), size_px / 320)
    picture += rng.normal(0, 2.0, picture.shape)
    return DrawnPicture(np.clip(np.rint(picture), 0, 255).astype(np.uint8), depth > 0)


def draw_dataset(out: Path, count: int, seed: int) -> None:
    """Write `count` synthetic pictures as a labelled data set that `training.data.samples.read_samples` reads.

    The files are `out/{train,val}/{benign,malignant}/NNNN.png`, `out/masks/NNNN.png` and `out/labels.csv` with the
    columns path, label, group, split, mask. Paths in the table are relative to `out`. Each label gets half of the
    pictures, and a quarter of each label's pictures is in val. A group is one lesion with one to three pictures, all in
    the same split. The same seed writes the same bytes.

    Raises ValueError for a count below 4, and FileExistsError if `out` already has a `labels.csv`.
    """
    if count < 4:
        raise ValueError(f"count is {count}: at least 4 pictures are needed, one of each label in each split")
    out.mkdir(parents=True, exist_ok=True)
    if (file := out / "labels.csv").exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file))
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "label", "group", "split", "mask"])
    number = 0
    for group, (label, split, views) in enumerate(_lesions(np.random.default_rng(seed), count)):
        rng = np.random.default_rng([seed, group])
        lesion = draw_lesion(rng, label)
        for drawn in [lesion, *(_another_view(rng, lesion) for _ in range(views - 1))]:
            path, mask = f"{split}/{label}/{number:04d}.png", f"masks/{number:04d}.png"
            _save(Image.fromarray(drawn.image), out / path)
            _save(Image.fromarray(drawn.mask), out / mask)
            rows.writerow([path, label, f"drawn-{group:04d}", split, mask])
            number += 1
    write_atomically(file, table.getvalue().encode())  # last, so that a table lists nothing that is not there


def _lesions(rng: np.random.Generator, count: int) -> list[tuple[str, str, int]]:
    """Return (label, split, number of pictures) of every lesion, such that labels and splits get their exact shares."""
    lesions = []
    for label, pictures in (("benign", count - count // 2), ("malignant", count // 2)):
        val = max(1, round(pictures / 4))
        for split, left in (("train", pictures - val), ("val", val)):
            while left:
                views = min(left, int(rng.integers(1, 3, endpoint=True)))
                lesions.append((label, split, views))
                left -= views
    return lesions


def _another_view(rng: np.random.Generator, lesion: DrawnPicture) -> DrawnPicture:
    """Return the same lesion rotated by a multiple of 90° and with another exposure."""
    turns, exposure = int(rng.integers(1, 4)), rng.uniform(0.85, 1.1)
    image = np.clip(np.rint(lesion.image * exposure), 0, 255).astype(np.uint8)
    return DrawnPicture(np.rot90(image, turns), np.rot90(lesion.mask, turns))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        image.save(path, compress_level=1)


def _grid(size_px: int) -> tuple[Field, Field]:
    """Return x and y of every pixel's centre. The picture spans -1 to 1."""
    line = (np.arange(size_px, dtype=np.float32) + 0.5) * 2 / size_px - 1
    x, y = np.meshgrid(line, line)
    return x, y


def _depth(rng: np.random.Generator, size_px: int, roughness: float) -> Field:
    """Return how deep each pixel lies in the lesion: 1 at its centre, 0 on its border, negative outside.

    The border is an ellipse whose radius is modulated by a random Fourier series with the relative standard deviation
    `roughness`.
    """
    x, y = _grid(size_px)
    x, y = x - rng.uniform(-0.2, 0.2), y - rng.uniform(-0.2, 0.2)
    tilt, stretch = rng.uniform(0, np.pi), np.sqrt(rng.uniform(1, 1.5))
    x, y = (np.cos(tilt) * x + np.sin(tilt) * y) / stretch, (np.cos(tilt) * y - np.sin(tilt) * x) * stretch
    angle = np.arctan2(y, x)
    orders = np.arange(2, 17)
    amplitudes = rng.normal(0, 1, orders.size) / orders**1.2
    amplitudes *= roughness * np.sqrt(2 / np.square(amplitudes).sum())
    turn = np.linspace(-np.pi, np.pi, 721)
    waves = np.cos(turn[:, None] * orders + rng.uniform(0, 2 * np.pi, orders.size)) @ amplitudes
    radius = rng.uniform(0.25, 0.55) * np.interp(angle, turn, np.maximum(0.3, 1 + waves))
    return np.asarray(1 - np.hypot(x, y) / radius, np.float32)


def _pigment(rng: np.random.Generator, depth: Field, colours: int) -> Colours:
    """Draw the lesion's colours: `colours` patches that blend into each other, lighter or darker towards the centre."""
    size_px = len(depth)
    chosen = rng.choice(_PIGMENT, colours, replace=False, p=_PIGMENT_ODDS) * np.float32(rng.uniform(0.75, 1.2))
    patches = np.stack([_noise(rng, size_px, 3) for _ in range(colours)], axis=-1)
    shares = np.exp(5 * (patches - patches.max(axis=-1, keepdims=True)))
    mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ chosen
    grain = 1 + 0.07 * _noise(rng, size_px, 12) + 0.06 * _noise(rng, size_px, 40)
    shade = grain + rng.uniform(-0.3, 0.15) * np.clip(depth, 0, 1)
    return np.asarray(mixed * shade[..., None], np.float32)


def _spots(rng: np.random.Generator, depth: Field, spots: int) -> Field:
    """Draw factors that darken round spots, all of them in one half of the lesion."""
    x, y = _grid(len(depth))
    rows, columns = np.nonzero(depth > 0.2)
    side = np.argsort(np.cos(heading := rng.uniform(0, 2 * np.pi)) * columns + np.sin(heading) * rows)
    factor = np.ones_like(depth)
    for pixel in rng.choice(side[: max(1, len(side) // 2)], spots):
        row, column = rows[pixel], columns[pixel]
        distance = np.hypot(x - x[row, column], y - y[row, column])
        wobble = distance * (1 + 0.25 * _noise(rng, len(depth), 12))
        factor *= 1 - rng.uniform(0.15, 0.5) * np.exp(-np.square(wobble / rng.uniform(0.03, 0.09)))
    return factor


def _skin(rng: np.random.Generator, size_px: int) -> Colours:
    tone = rng.dirichlet(np.ones(len(_SKIN))).astype(np.float32) @ _SKIN * rng.uniform(0.92, 1.05)
    relief = 0.02 * _noise(rng, size_px, 5) + 0.015 * _noise(rng, size_px, 30) + 0.015 * _noise(rng, size_px, 70)
    flush = 0.035 * _noise(rng, size_px, 7) + 0.02 * _noise(rng, size_px, 25)
    redness = flush[..., None] * np.array([0.2, 1, 0.8], np.float32)
    return (tone * (1 + relief[..., None] - redness)).astype(np.float32)


def _add_hairs(rng: np.random.Generator, picture: Colours) -> None:
    """Draw thin, dark, curved lines into `picture`, in place."""
    size_px, heading = len(picture), rng.uniform(0, 2 * np.pi)
    lines = np.zeros((size_px, size_px), np.uint8)
    for _ in range(int(rng.integers(3, 12))):
        directions = heading + rng.normal(0, 0.4) + np.linspace(0, rng.uniform(-1.5, 1.5), 24)
        steps = np.stack([np.cos(directions), np.sin(directions)], axis=-1) * rng.uniform(0.3, 0.9) * size_px / 24
        points = np.rint((rng.uniform(0, size_px, 2) + steps.cumsum(axis=0)) * 16).astype(np.int32)
        cv2.polylines(lines, [points], False, int(rng.integers(90, 200)), 1, cv2.LINE_AA, 4)
    picture += lines[..., None] / np.float32(255) * (np.array([62, 44, 38], np.float32) - picture)


def _light(rng: np.random.Generator, size_px: int) -> Field:
    """Draw an illumination that falls off towards one side and towards the corners."""
    x, y = _grid(size_px)
    heading, slope, vignette = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.1), rng.uniform(0.02, 0.16)
    to_side = np.cos(heading) * x + np.sin(heading) * y
    return np.asarray(1 + slope * to_side - vignette * np.hypot(x, y) ** 3, np.float32)


def _noise(rng: np.random.Generator, size_px: int, cells: int) -> Field:
    """Draw smooth noise of about unit variance, interpolated from `cells` random values along each side."""
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    margin = size_px // cells
    grown = cv2.resize(coarse, (size_px + 2 * margin,) * 2, interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown[margin : margin + size_px, margin : margin + size_px], np.float32)


def _smooth_step(values: Field) -> Field:
    t = np.clip(values, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
