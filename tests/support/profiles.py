"""Small ICC profiles, written by hand: ICC.1:2022, sections 7.2 (header), 7.3 (tags) and 10 (their types)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_D65, _D50 = np.array([0.95047, 1.0, 1.08883]), np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # parametric curve of type 3


def to_xyz(primaries: Sequence[tuple[float, float]]) -> np.ndarray:
    """The matrix from linear RGB with these primaries and the white point D65 to XYZ."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return np.asarray(columns * np.linalg.solve(columns, _D65))


def rgb_profile(primaries: Sequence[tuple[float, float]], gamma: float | None = None) -> bytes:
    """A profile of a screen with these primaries. Without `gamma`, its curve is that of sRGB."""
    cone = _BRADFORD @ _D50 / (_BRADFORD @ _D65)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(cone) @ _BRADFORD @ to_xyz(primaries)
    curve = _parametric(0, (gamma,)) if gamma else _parametric(3, _SRGB_CURVE)
    tags = {b"wtpt": _xyz(_D50)}
    for name, column in zip((b"r", b"g", b"b"), adapted.T, strict=True):
        tags |= {name + b"XYZ": _xyz(column), name + b"TRC": curve}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A profile of a greyscale device."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(_D50), b"kTRC": _parametric(0, (gamma,))})


def ink_profile(of_full_ink: Sequence[tuple[int, int, int]]) -> bytes:
    """A profile of a press: `of_full_ink` are the 16 colours of no and full C, M, Y, K (K changes fastest), in Lab."""
    straight = bytes(range(256))
    corners = b"".join(bytes((round(lightness * 2.55), a + 128, b + 128)) for lightness, a, b in of_full_ink)
    unit = struct.pack(">9i", *(65_536 if place in (0, 4, 8) else 0 for place in range(9)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + unit + straight * 4 + corners + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(_D50), b"A2B0": table})


def _profile(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"mluc\0\0\0\0" + struct.pack(">LL2s2sLL", 1, 12, b"en", b"US", 8, 28) + "test".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text, **tags}
    place, directory, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        directory += struct.pack(">4sLL", name, place + len(body), len(content))
        body += padded
    size = place + len(body)
    header = struct.pack(">L4sL4s4s4s12s4s", size, b"\0" * 4, 0x04400000, device, space, connection, b"", b"acsp")
    header += bytes(28) + struct.pack(">3i", *(round(value * 65_536) for value in _D50))
    return header.ljust(128, b"\0") + struct.pack(">L", len(tags)) + directory + body


def _parametric(kind: int, values: Sequence[float]) -> bytes:
    fixed = struct.pack(f">{len(values)}i", *(round(value * 65_536) for value in values))
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65_536) for value in values))
