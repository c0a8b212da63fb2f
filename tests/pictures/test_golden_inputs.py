"""The model input of six drawn pictures, fixed to ±1 grey level, whatever the versions of the libraries.

After a change of the preprocessing that is meant, write the new inputs and read the differences before keeping them:
`python -m tests.pictures.test_golden_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare
from app.shapes import UInt8, UInt16
from tests.support.pictures import Rgb, encoded, exif, turned

GOLDEN = Path(__file__).with_name("golden_inputs.npz")
Case = tuple[bytes, tuple[int, int]]


def drawn(height: int, width: int, channels: int) -> UInt16[np.ndarray, "h w c"]:
    """Rings, edges and a slope in 16 bits, by integer arithmetic alone."""
    y, x, channel = np.ogrid[:height, :width, :channels]
    rings = ((x - width // 3) ** 2 + (y - height // 2) ** 2) * (channel + 2) % 4093 * 16
    slope = (x * 40_000 // width + y * 20_000 // height + channel * 9_000) % 65_536
    return np.asarray(np.where((x // 7 + y // 5 + channel) % 3 == 0, rings, slope), np.uint16)


def eight_bit(height: int, width: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    return np.asarray(drawn(height, width, channels) >> 8, np.uint8)


def cmyk() -> Case:
    inks = Image.frombytes("CMYK", (48, 40), eight_bit(40, 48, 4).tobytes())
    return encoded(inks, "TIFF"), (32, 32)


def sixteen_bit() -> Case:
    return encoded(Image.fromarray(drawn(50, 64, 1)[..., 0]), "PNG"), (32, 32)


CASES: dict[str, Callable[[], Case]] = {
    "large": lambda: (encoded(Image.fromarray(eight_bit(200, 300, 3)), "PNG"), (32, 32)),
    "small": lambda: (encoded(Image.fromarray(eight_bit(9, 11, 3)), "BMP"), (32, 32)),
    "wide_input_turned": lambda: (
        encoded(Image.fromarray(turned(eight_bit(90, 70, 3), 6)), "PNG", exif=exif(6)),
        (24, 40),
    ),
    "cmyk": cmyk,
    "sixteen_bit": sixteen_bit,
    "transparent": lambda: (encoded(Image.fromarray(eight_bit(60, 45, 4)), "PNG"), (32, 32)),
}


def model_input(case: Case) -> Rgb:
    data, input_size = case
    return prepare(decode(data, Limits()), input_size).image


@pytest.mark.parametrize("name", CASES)
def test_the_model_input_is_as_it_was(name: str) -> None:
    with np.load(GOLDEN) as golden:
        expected = golden[name].astype(int)
    assert np.abs(model_input(CASES[name]()).astype(int) - expected).max() <= 1


if __name__ == "__main__":
    inputs: dict[str, Any] = {name: model_input(case()) for name, case in CASES.items()}
    np.savez_compressed(GOLDEN, **inputs)
