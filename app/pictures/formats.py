"""The kinds of picture files, told apart by their first bytes. Names and declared types are never trusted."""

from __future__ import annotations

# What is read, by the first bytes of the files. Pillow's other loaders are never called.
SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*"),
    "BMP": (b"BM",),
}
SNIFFED_BYTES = 512  # at the start of a file, enough to tell its kind


def format_of(start: bytes) -> str | None:
    """The format of a file by its first `SNIFFED_BYTES` bytes: one of `SIGNATURES`, or else None."""
    for name, prefixes in SIGNATURES.items():
        if start.startswith(prefixes) and (name != "WEBP" or start[8:12] == b"WEBP"):
            return name
    return None
