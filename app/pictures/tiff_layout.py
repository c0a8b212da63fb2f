"""Says what of a TIFF's layout is not supported, before its pixels are decoded.

A TIFF can hold almost any numbers. Pillow refuses most of what it does not read, without a word of what that is, and
takes some for what they are not. Source: TIFF 6.0, sections 8, 18, 19, 21 and 22, and its technical notes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.TiffImagePlugin import COMPRESSION_INFO

from app.pictures.container_limits import BYTE_ORDERS

_BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 1, 2, 3, 5, 6
_GREY = (0, _BLACK_IS_ZERO)
_COLOURS = {
    0: "greyscale where 0 is white",
    1: "greyscale",
    2: "RGB colours",
    3: "palette colours",
    4: "a transparency mask",
    5: "CMYK colours",
    6: "YCbCr colours",
    8: "CIELAB colours",
    9: "ICC LAB colours",
    10: "ITU LAB colours",
    32803: "a sensor's pattern",
    32844: "LogL brightness",
    32845: "LogLuv colours",
    34892: "linear raw colours",
}
_COLOUR_SAMPLES = {_RGB: 3, _CMYK: 4, _YCBCR: 3}  # of a pixel; 1 of the others
_VALUES = {2: "signed values", 3: "floating-point values", 4: "values of no known kind", 5: "complex values"}
_COMPRESSIONS = {
    32908: "PixarFilm",
    32909: "Pixarlog",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of a raw file",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_UNCOMPRESSED, _JPEG = 1, 7
_NUMBERS = {1: ("B", 1), 3: ("H", 2), 4: ("L", 4)}  # TIFF types of whole numbers, and their bytes
_MAX_NUMBERS = 64  # of a tag that are read: more than a pixel has samples
_USUAL_COMPRESSIONS = {_UNCOMPRESSED, 2, 3, 4, 5, 7, 8, 32773, 32946}  # those that every libtiff reads
_ADVICE = "convert the picture to 8-bit colours, or to greyscale of 8 or 16 bits without sign where 0 is black"


@dataclass(frozen=True)
class TiffLayout:
    """How the first page of a TIFF stores its samples, by the numbers of the specification.

    `bits` and `kinds` (SampleFormat) hold a number for each sample of a pixel, `extra` one for each that is no colour.
    `photometric` is None if the file does not say it.
    """

    photometric: int | None
    bits: tuple[int, ...]
    kinds: tuple[int, ...]
    extra: tuple[int, ...]
    compression: int
    planar: int
    fill_order: int
    subsampling: tuple[int, ...]

    @property
    def problem(self) -> str | None:
        """What is not supported, as a sentence with what to do about it, or None if nothing is known to be wrong."""
        return next((f"A TIFF {what} is not supported: {advice}." for what, advice in self._problems()), None)

    def _problems(self) -> Iterator[tuple[str, str]]:
        """What is not supported, and what to do about it."""
        if self.compression not in COMPRESSION_INFO:
            name = _COMPRESSIONS.get(self.compression, f"method {self.compression}")
            yield f"compressed with {name}", "save it without compression, or with LZW or Deflate"
        if self.photometric is None:
            yield "that does not say whether 0 is black or white", "save it with the tag PhotometricInterpretation"
        elif self.photometric not in (*_GREY, *_COLOUR_SAMPLES, _PALETTE):
            yield f"of {self.colours}", _ADVICE
        if unusual := {*self.kinds} - {1}:
            values = f"{self._bits} {_VALUES.get(min(unusual), _VALUES[5])}"
            yield f"of {self.colours} with {values}", f"scale the values to the range of 8 or 16 bits, and {_ADVICE}"
        if len({*self.bits}) > 1 or not {*self.bits} <= {1, 2, 4, 8, 12, 16}:
            yield f"of {self.colours} with {self._bits} values", _ADVICE
        if self.planar == 2 and self._has_misread_planes:
            what = f"of {self.colours} with {self._bits} values in planes of this kind"
            yield what, "save it pixel by pixel (PlanarConfiguration 1)"
        if self._has_unread_bit_order:
            yield f"of {self.colours} with {self._bits} values in reversed bits", "save it with FillOrder 1"
        if self.photometric == _YCBCR and self.compression == _UNCOMPRESSED and self.subsampling != (1, 1):
            yield "of subsampled YCbCr colours without compression", "save it as RGB, or compressed as JPEG"
        if self.photometric == _YCBCR and len(self.bits) == 1 and self.compression == _JPEG:
            yield "of YCbCr colours with one value in each pixel", _ADVICE

    @property
    def _has_misread_planes(self) -> bool:
        """Whether Pillow takes planes of this kind for others: it reads uncompressed ones as plain bytes."""
        if self.compression != _UNCOMPRESSED:
            if len(self.bits) > _COLOUR_SAMPLES.get(self.photometric or 0, 1) + len(self.extra):
                return True
            if self.photometric == _YCBCR:
                return bool(self.extra)
            return any(self.extra) and (self._has_one_colour or len(self.extra) > 1)
        are_plain = {*self.bits} == {8} or (self.bits == (1,) and self.photometric == _BLACK_IS_ZERO)
        are_known = not self.extra or (self.extra == (2,) and self.photometric == _RGB)
        return not are_plain or not are_known or self.fill_order != 1 or self.photometric in (0, _YCBCR)

    @property
    def _has_unread_bit_order(self) -> bool:
        is_unread = (self.photometric == 0 and 8 in self.bits) or (self.photometric == _PALETTE and 8 not in self.bits)
        return is_unread and self.fill_order == 2 and self.compression == _UNCOMPRESSED

    @property
    def _has_one_colour(self) -> bool:
        return self.photometric not in _COLOUR_SAMPLES

    @property
    def colours(self) -> str:
        """What the samples stand for, such as `greyscale`."""
        assert self.photometric is not None
        return _COLOURS.get(self.photometric, f"colours of kind {self.photometric}")

    @property
    def _bits(self) -> str:
        return " and ".join(f"{bits}-bit" for bits in sorted({*self.bits}))

    @property
    def unread(self) -> str:
        """A sentence for a file that Pillow does not open, although its directory is complete."""
        extra = len(self.bits) - _COLOUR_SAMPLES.get(self.photometric or 0, 1)
        samples = f"{self._bits} values" + (f" and {extra} more in each pixel" if extra > 0 else "")
        return f"A TIFF of {self.colours} with {samples}, stored like this one, is not supported: {_ADVICE}."

    @property
    def unusual_compression(self) -> str | None:
        """The name of a compression that not every libtiff reads, or None if every one does."""
        if self.compression in _USUAL_COMPRESSIONS:
            return None
        return COMPRESSION_INFO[self.compression].removeprefix("tiff_").replace("_", " ")


def read_layout(tiff: bytes) -> TiffLayout | None:
    """The layout of a TIFF's first page, or None if its directory is damaged or lacks what every picture has."""
    try:
        tags = _read_tags(tiff)
    except (KeyError, struct.error):
        return None
    if not {256, 257} <= {*tags} or not {273, 324} & {*tags}:
        return None
    samples = max(1, *tags.get(277, (1,)))
    bits = tags.get(258, (1,))[:samples]
    return TiffLayout(
        photometric=tags[262][0] if 262 in tags else None,
        bits=bits * min(samples, _MAX_NUMBERS) if len(bits) == 1 else bits,
        kinds=tags.get(339, (1,)),
        extra=tags.get(338, ()),
        compression=tags.get(259, (_UNCOMPRESSED,))[0],
        planar=tags.get(284, (1,))[0],
        fill_order=tags.get(266, (1,))[0],
        subsampling=tags.get(530, (2, 2)),
    )


def _read_tags(tiff: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers of the first directory, at most `_MAX_NUMBERS` of a tag and the first of any tag.

    What lies outside of the file is left out, as Pillow does it. Raises KeyError and struct.error for a damaged header.
    """
    order, tags = BYTE_ORDERS[tiff[:4]], dict[int, tuple[int, ...]]()
    (start,) = struct.unpack_from(f"{order}L", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for place in range(start + 2, min(start + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count = struct.unpack_from(f"{order}HHL", tiff, place)
        if kind not in _NUMBERS or not count or tag in tags:
            continue
        letter, size = _NUMBERS[kind]
        at = place + 8
        if count * size > 4:
            (at,) = struct.unpack_from(f"{order}L", tiff, at)
        if at + count * size <= len(tiff):
            tags[tag] = struct.unpack_from(f"{order}{min(count, _MAX_NUMBERS)}{letter}", tiff, at)
    return tags
