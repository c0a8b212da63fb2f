"""The colour space that a picture without a profile declares, if that is another than sRGB.

Sources: ITU-T H.273, tables 2 and 3; PNG specification (third edition), section 11.3.2; EXIF 2.32 with DCF 2.0;
TIFF 6.0, section 20; for BMP, Microsoft's BITMAPV5HEADER.
"""

from __future__ import annotations

import struct
from numbers import Real
from typing import Any

from PIL import Image

from app.pictures.container_limits import BYTE_ORDERS
from app.pictures.heif_boxes import read_nclx
from app.pictures.orientation import exif_block
from app.pictures.tiff_directory import value_place

# Primaries and transfer curves of H.273 that are those of sRGB and BT.709, are not told, or look the same, as the
# primaries of BT.601 and a gamma of 2.2 do.
_LIKE_SRGB_PRIMARIES, _LIKE_SRGB_TRANSFER = {0, 1, 2, 3, 5, 6, 7}, {0, 1, 2, 3, 4, 6, 13, 14, 15}
_PRIMARIES = {4: "BT.470 M", 8: "film", 9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3", 22: "EBU 3213"}
_TRANSFERS = {
    5: "a gamma of 2.8",
    8: "linear light",
    9: "logarithms",
    10: "logarithms",
    16: "PQ (HDR)",
    18: "HLG (HDR)",
}
_UNSPECIFIED = 2  # the number for primaries that are not told
_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green and blue
_TOLERANCE = 0.02  # the primaries of BT.601 differ by 0.01, those of Display P3 by 0.04
_WHITE_POINT, _CHROMATICITIES, _EXIF = 318, 319, 0x8769  # TIFF tags
_COLOR_SPACE, _INTEROPERABILITY, _INDEX = 0xA001, 0xA005, 1  # EXIF tags
_ADOBE_RGB, _UNCALIBRATED = 2, 65_535  # values of _COLOR_SPACE; 1 is sRGB
_BMP_PROFILES = (b"DEBM", b"KNIL")  # the colour spaces "MBED" and "LINK": a profile in the file, or in another
_BMP_V5_BYTES = 124  # of the header, the first that may have them


def declared_colours(image: Image.Image, data: bytes, mode: str) -> str | None:
    """What a picture declares its colours to be, such as `Display P3`, or None if it is sRGB or nothing is declared.

    `image` is loaded, `data` is its file, and `mode` is what it becomes: L, LA, RGB, RGBA or CMYK. Profiles, and the
    gamma of a PNG, are not looked at. Of greyscale, only the transfer curve counts.
    """
    is_grey = mode in ("L", "LA")
    code = _code_points(image, data)
    if code is not None and code[0] != _UNSPECIFIED:
        return _name(1 if is_grey else code[0], *code[1:])
    if is_grey or mode == "CMYK" or "srgb" in image.info:
        return None
    if _has_other_primaries(_chromaticities(image)):
        return "a colour space with other primaries than sRGB's"
    if image.format == "BMP":
        return "those of a profile" if data[14] >= _BMP_V5_BYTES and data[70:74] in _BMP_PROFILES else None
    exif = data if image.format == "TIFF" else exif_block(image)
    return _exif_space(exif) if exif is not None else None


def _code_points(image: Image.Image, data: bytes) -> tuple[int, int, bool] | None:
    """H.273's numbers for primaries and transfer curve, and whether the values are read in a wrong range."""
    if image.format == "PNG":
        body = png_chunk(data, b"cICP")
        return (body[0], body[1], body[3] == 0) if body is not None and len(body) == 4 else None
    if image.format == "HEIF":
        nclx = image.info.get("nclx_profile")
        return (nclx["color_primaries"], nclx["transfer_characteristics"], False) if nclx else None
    if image.format == "AVIF" and (codes := read_nclx(data)) is not None:
        return (*codes, False)
    return None


def _name(primaries: int, transfer: int, is_narrow: bool = False) -> str | None:
    names = []
    if primaries not in _LIKE_SRGB_PRIMARIES:
        names.append(_PRIMARIES.get(primaries, f"primaries of kind {primaries}"))
    if transfer not in _LIKE_SRGB_TRANSFER:
        names.append(_TRANSFERS.get(transfer, f"a transfer curve of kind {transfer}"))
    if is_narrow:
        names.append("the narrow range of films")
    return " with ".join(names) or None


def png_chunk(png: bytes, wanted: bytes) -> bytes | None:
    """The body of the first chunk of this kind before the pixels of a PNG, or None."""
    position = 8
    while position + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == wanted:
            return png[position + 8 : position + 8 + length]
        if kind in (b"IDAT", b"IEND"):
            break
        position += 12 + length
    return None


def _chromaticities(image: Image.Image) -> tuple[Any, ...]:
    """White and primaries as (x, y) each, in the order of `_SRGB_CHROMATICITIES`, or what stands in their place."""
    if image.format == "PNG":
        declared = image.info.get("chromaticity")
        return declared if isinstance(declared, tuple) else ()
    tags = getattr(image, "tag_v2", {})
    white, primaries = tags.get(_WHITE_POINT, _SRGB_CHROMATICITIES[:2]), tags.get(_CHROMATICITIES)
    return (*white, *primaries) if isinstance(white, tuple) and isinstance(primaries, tuple) else ()


def _has_other_primaries(chromaticities: tuple[Any, ...]) -> bool:
    """Whether these eight numbers are far from those of sRGB. Text and the like is no declaration."""
    if len(chromaticities) != len(_SRGB_CHROMATICITIES) or not all(isinstance(value, Real) for value in chromaticities):
        return False
    pairs = zip(chromaticities, _SRGB_CHROMATICITIES, strict=True)
    return any(not abs(float(declared) - srgb) <= _TOLERANCE for declared, srgb in pairs)


def _exif_space(block: bytes) -> str | None:
    """The colour space of an EXIF block, or None if it is sRGB's, damaged or not told."""
    order = BYTE_ORDERS.get(block[:4])
    try:
        if order is None or (exif := value_place(block, order, 4, _EXIF)) is None:
            return None
        colour_space = value_place(block, order, exif, _COLOR_SPACE)
        interoperability = value_place(block, order, exif, _INTEROPERABILITY)
        index = value_place(block, order, interoperability, _INDEX) if interoperability is not None else None
        is_adobe = index is not None and block[index : index + 3] == b"R03"
        if colour_space is None:
            return "Adobe RGB" if is_adobe else None
        (number,) = struct.unpack_from(f"{order}H", block, colour_space)
    except struct.error:
        return None
    if number == _ADOBE_RGB or (is_adobe and number != 1):
        return "Adobe RGB"
    return "a colour space other than sRGB" if number == _UNCALIBRATED else None
