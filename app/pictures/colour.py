"""From greyscale, RGB or CMYK to RGB on white, in the colour space sRGB, by the profile that the picture carries.

Source: ICC.1:2022. LittleCMS, which is part of Pillow, applies the profile with its own table for eight bits, so the
time for a pixel does not depend on what the profile holds.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms, ImageStat

from app.pictures.orientation import DECODE_ERRORS

MAX_PROFILE_BYTES = 4_000_000  # profiles of presses have up to 3 MB, those of screens and cameras a few kB
MAX_SRGB_DIFFERENCE = 2  # in levels of 255: profiles of sRGB from different makers differ by as much
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # the colour spaces of profiles, and the modes that they are for
_USUAL_GAMMA, _GAMMA_TOLERANCE = 1 / 2.2, 0.02


def to_srgb(image: Image.Image, reduction: int = 1, declared: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert a loaded picture to RGB on white where it is transparent, and return what the sender should know.

    `image` has the mode L, LA, RGB, RGBA or CMYK. A picture whose profile changes its colours is reduced by the factor
    `reduction` first, because the conversion of a large picture takes a second. `declared` is the colour space that a
    picture without a profile declares, if that is another than sRGB: its colours are not converted.
    """
    profile = image.info.get("icc_profile")
    colours, notes = _on_white(image)
    if not profile:
        return _as_rgb(colours), (*notes, *_notes_without_profile(image, declared))
    try:
        transform = _transform(profile, colours.mode)
        if transform is None:
            return _as_rgb(colours), tuple(notes)
        return transform.apply(colours.reduce(reduction) if reduction > 1 else colours), tuple(notes)
    except (_UnusableProfile, ImageCms.PyCMSError, *DECODE_ERRORS) as error:
        reason = str(error) if isinstance(error, _UnusableProfile) else "it is damaged"
    note = f"The picture's colour profile could not be used ({reason}), so its colours were taken as sRGB."
    return _as_rgb(colours), (*notes, note)


def _as_rgb(colours: Image.Image) -> Image.Image:
    """The colours as RGB; those that are RGB already are not copied."""
    return colours if colours.mode == "RGB" else colours.convert("RGB")


class _UnusableProfile(Exception):
    """A profile that does not apply to its picture. The message says why."""


def _on_white(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The colours on white, as L, RGB or CMYK, and a sentence about what was transparent.

    If all of a picture is fully transparent and it has several colours, these are used: many programs write alpha of 0
    where they mean that there is none.
    """
    if image.mode not in ("LA", "RGBA"):
        return image, []
    colours, alpha = image.convert(image.mode.removesuffix("A")), image.getchannel("A")
    smallest, largest = alpha.getextrema()
    if smallest == 255:
        return colours, []
    if largest == 0 and any(low != high for low, high in ImageStat.Stat(colours).extrema):
        return colours, ["All of the picture is declared as transparent; its colours were used as if it were not."]
    on_white = Image.new(colours.mode, image.size, "white")
    on_white.paste(colours, mask=alpha)
    return on_white, ["Transparent parts of the picture were taken as white."]


def _transform(profile: object, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB, or None if it leaves all colours as they are.

    Raises _UnusableProfile, and the errors of LittleCMS for a damaged profile.
    """
    if not isinstance(profile, bytes):
        raise _UnusableProfile("it is damaged")
    if len(profile) > MAX_PROFILE_BYTES:
        raise _UnusableProfile("it is too large")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if _MODES.get(space) != mode:
        raise _UnusableProfile(f"it is for {space or 'no known'} colours")
    transform = ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB")
    return None if _is_identity(transform, mode) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves colours as they are, but for rounding: a profile of sRGB, by whatever name."""
    if mode == "CMYK":
        return False
    cube = _cube(mode)
    changed = np.asarray(transform.apply(cube)).astype(int)
    return int(np.abs(changed - np.asarray(cube.convert("RGB"))).max()) <= MAX_SRGB_DIFFERENCE


@cache
def _cube(mode: str) -> Image.Image:
    """Colours from all over the cube of `mode`, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, 81, 3))


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _notes_without_profile(image: Image.Image, declared: str | None) -> list[str]:
    """Sentences about colours that are probably not sRGB, although no profile says what they are."""
    if declared is not None:
        return [
            f"The picture declares its colours as {declared}, which was not converted, so they may be wrong: "
            "save it as sRGB."
        ]
    if image.mode == "CMYK":
        return ["The picture has CMYK colours without a profile, so its colours are approximate."]
    gamma = image.info.get("gamma")
    if isinstance(gamma, float) and "srgb" not in image.info and abs(gamma - _USUAL_GAMMA) > _GAMMA_TOLERANCE:
        return [f"The picture declares a gamma of {gamma:.3g} without a profile; its colours were taken as sRGB."]
    return []
