"""From a picture to the model's input, and between the coordinates of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.pictures.decode import INPUT_REDUCING_GAP, Picture
from app.pictures.rectangle import Rectangle
from app.shapes import UInt8


@dataclass(frozen=True)
class Frame(Rectangle):
    """The region of the upright picture that the model sees, and the size of the input that it is resized to."""

    input_width_px: int
    input_height_px: int

    @classmethod
    def shortest_side(cls, picture_size: tuple[int, int], input_size: tuple[int, int]) -> Frame:
        """The frame of a centre crop after resizing the shortest side.

        `picture_size` is (width, height); `input_size` is (height, width).
        """
        (width, height), (input_height, input_width) = picture_size, input_size
        # The side that is seen whole stays exact: rounded up, the frame would reach beyond the picture.
        seen_width, seen_height = float(width), float(height)
        if width * input_height > height * input_width:
            seen_width = height * input_width / input_height
        else:
            seen_height = width * input_height / input_width
        return cls(
            (width - seen_width) / 2, (height - seen_height) / 2, seen_width, seen_height, input_width, input_height
        )

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """A point of the model's input in coordinates of the picture."""
        return (
            self.left_px + x * self.width_px / self.input_width_px,
            self.top_px + y * self.height_px / self.input_height_px,
        )

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture in coordinates of the model's input. It may lie outside the input."""
        return (
            (x - self.left_px) * self.input_width_px / self.width_px,
            (y - self.top_px) * self.input_height_px / self.height_px,
        )


@dataclass(frozen=True)
class Prepared:
    """The model's input and its frame in the picture."""

    image: UInt8[np.ndarray, "h w 3"]
    frame: Frame


def prepare(picture: Picture, input_size: tuple[int, int]) -> Prepared:
    """The model's input of `input_size` (height, width): shortest side to size, then centre crop.

    Both are done by one antialiased bicubic resize. A picture that is at least six times as large is first reduced by a
    whole factor, which saves time without a visible difference.
    """
    frame = Frame.shortest_side((picture.width_px, picture.height_px), input_size)
    height, width = input_size
    factor = max(1, int(frame.width_px / picture.reduced_by / width / INPUT_REDUCING_GAP))
    overhang_left, overhang_top, _, _ = picture.overhang
    across, down = (frame.left_px, frame.left_px + frame.width_px), (frame.top_px, frame.top_px + frame.height_px)
    left, right = ((overhang_left + edge / picture.reduced_by) / factor for edge in across)
    top, bottom = ((overhang_top + edge / picture.reduced_by) / factor for edge in down)
    # In floats, because with 8 bits Pillow rounds and clips between its two passes, whose order depends on its version.
    channels = [
        channel.convert("F").resize((width, height), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
        for channel in picture.image.reduce(factor).split()
    ]
    resized = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return Prepared(np.clip(np.rint(resized), 0, 255).astype(np.uint8), frame)
