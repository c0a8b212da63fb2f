"""The kinds of picture files, told apart by their first bytes. A file's name and its declared type are never trusted.

Sources: the specifications of the formats; for AVIF and HEIF, ISO/IEC 14496-12, section 4.3 (the file type box).
"""

from __future__ import annotations

import struct
from importlib.util import find_spec
from typing import Final

from PIL import features

# The usual suffixes of pictures, by which files are found in a folder. What a file is, its bytes say.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif"}
)
# What is always read, by the first bytes of the files.
SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*"),
    "BMP": (b"BM",),
}
MORE_FORMATS: Final = ("AVIF", "HEIF")  # what is read on request
SNIFFED_BYTES = 512  # at the start of a file, enough to tell its kind
_BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
}
# What is not read, but named in errors: where its first bytes are, the bytes, and what it is.
_NAMED: tuple[tuple[int, tuple[bytes, ...], str], ...] = (
    (0, (b"II+\0", b"MM\0+"), "a BigTIFF"),
    (8, (b"CR\x02\0",), "a camera's raw file"),
    (4, (b"ftypcrx ",), "a camera's raw file"),
    (0, (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"IIU\0"), "a camera's raw file"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), "a JPEG XL picture"),
    (0, (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"), "a JPEG 2000 picture"),
    (0, (b"II\xbc",), "a JPEG XR picture"),
    (128, (b"DICM",), "a DICOM file"),
    (0, (b"SIMPLE  =",), "a FITS file"),
    (0, (b"\x89HDF\r\n\x1a\n",), "an HDF5 file"),
    (0, (b"\x93NUMPY",), "a NumPy file"),
    (344, (b"n+1\0", b"ni1\0"), "a NIfTI file"),
    (0, (b"8BPS",), "a Photoshop file"),
    (0, (b"%PDF",), "a PDF"),
    (0, (b"%!PS",), "a PostScript file"),
    (0, (b"\0\0\1\0",), "an icon"),
    (0, (b"v/1\1",), "an OpenEXR picture"),
    (0, (b"#?RADIANCE",), "a Radiance picture"),
    (0, (b"DDS ",), "a DirectDraw surface"),
    (0, (b"qoif",), "a QOI picture"),
    (0, (b"PK\x03\x04",), "a ZIP archive"),
    (0, (b"\x1f\x8b",), "a gzip archive"),
    (4, (b"ftyp",), "a film"),
    (0, (b"\x1aE\xdf\xa3",), "a film"),
    (0, tuple(b"P%d" % kind + space for kind in range(1, 8) for space in (b"\n", b"\r", b"\t", b" ")), "a PNM picture"),
)
_MARKUP = {b"<svg": "an SVG picture", b"<!doctype html": "a web page", b"<html": "a web page", b"<?xml": "an XML file"}


def readable_formats() -> tuple[str, ...]:
    """All formats that the installed libraries can read."""
    return (*SIGNATURES, *(name for name in MORE_FORMATS if is_installed(name)))


def is_installed(format_name: str) -> bool:
    """Whether the library for one of `MORE_FORMATS` is installed."""
    if format_name == "HEIF":
        return find_spec("pillow_heif") is not None
    return bool(features.check("avif"))


def use_one_thread(format_name: str) -> None:
    """Load the library for one of `MORE_FORMATS`, and let it decode without threads of its own."""
    if format_name == "HEIF":
        import pillow_heif  # imported here because it is an optional dependency

        pillow_heif.options.DECODE_THREADS = 1
    else:
        from PIL import AvifImagePlugin  # imported here because few services need it

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def format_of(start: bytes) -> str | None:
    """The format of a file by its first `SNIFFED_BYTES` bytes: one of `SIGNATURES` or `MORE_FORMATS`, or else None."""
    for name, prefixes in SIGNATURES.items():
        if start.startswith(prefixes):
            is_another = (name == "WEBP" and start[8:12] != b"WEBP") or (name == "TIFF" and start[8:11] == b"CR\x02")
            return None if is_another else name
    brands = _brands(start)
    return next((name for name, own in _BRANDS.items() if own & brands), None)


def describe(start: bytes) -> str:
    """What a file is by its first bytes, for a sentence: `a DICOM file`, or `no picture in a known format`."""
    if (name := format_of(start)) is not None:
        return f"{'an' if name == 'AVIF' else 'a'} {name} picture"
    for place, prefixes, what in _NAMED:
        if start[place:].startswith(prefixes):
            return what
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for prefix, what in _MARKUP.items() if text.startswith(prefix)), "no picture in a known format")


def _brands(start: bytes) -> set[bytes]:
    """The brands in the file type box of an ISO base media file."""
    if start[4:8] != b"ftyp":
        return set()
    (size,) = struct.unpack_from(">L", start)
    listed = start[16 : min(size, len(start))]
    return {start[8:12], *(listed[place : place + 4] for place in range(0, len(listed), 4))}
