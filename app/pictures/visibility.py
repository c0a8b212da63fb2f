"""Notes about pictures that are far from what a model can see: tiny, very long, or without contrast."""

from __future__ import annotations

import numpy as np

from app.pictures.decode import Picture
from app.pictures.prepare import Prepared
from app.shapes import UInt8

MAX_ENLARGEMENT = 2.0  # of a side, without a note
MIN_SEEN_SHARE = 0.5  # of the picture's area
MIN_CONTRAST = 3.0  # standard deviation of each channel, in levels of 255; of a photograph it is above 10


def visibility_notes(picture: Picture, prepared: Prepared) -> tuple[str, ...]:
    """Sentences about what the model cannot see in this picture. Most pictures have none."""
    frame, notes = prepared.frame, []
    enlargement = frame.input_width_px / frame.width_px
    if enlargement > MAX_ENLARGEMENT:
        notes.append(
            f"The picture was enlarged {enlargement:.3g} times for the model, whose input is {frame.input_width_px} × "
            f"{frame.input_height_px} px: it has little detail."
        )
    seen = frame.width_px * frame.height_px / (picture.width_px * picture.height_px)
    if seen < MIN_SEEN_SHARE:
        notes.append(f"The model sees only the middle {max(seen, 0.01):.0%} of the picture: crop it to what matters.")
    if lacks_contrast(prepared.image):
        notes.append("The model's input has hardly any contrast: there is almost nothing in it to judge by.")
    return tuple(notes)


def lacks_contrast(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether all of a model's input has nearly one colour: two colours of one brightness are contrast."""
    channels = (np.ascontiguousarray(image[..., channel]) for channel in range(3))  # most pictures need the first only
    return all(float(channel.std(dtype=np.float32)) < MIN_CONTRAST for channel in channels)
