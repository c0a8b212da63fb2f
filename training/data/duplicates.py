"""Duplicate detection: exact duplicates have equal pixels, near duplicates similar hashes and similar detail.

The perceptual hash holds the signs of the 63 lowest frequencies in the cosine transform of a small grey picture. It
follows pHash (Zauner 2010), but compares with zero instead of the median. Rotating by 90° or mirroring a picture only
changes signs and transposes the frequencies, so the hashes of all eight orientations follow from two.

Different pictures of one kind, such as two skin lesions, can have hashes as similar as those of copies. Their detail,
the small picture minus its blurred version, tells them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import cv2
import numpy as np

from app.shapes import Bool, Float16, Int, UInt8, UInt64

_SIDE_PX, _FREQUENCIES, _BLUR_PX = 32, 8, 2.0
# Measured on 2,125 pictures of different lesions and on copies of them (JPEG quality 40, half the size, blurred by
# 1 px, 15 % darker). Copies differ in up to 5 bits, and their details correlate by 0.95 or more. The details of
# different lesions correlate by up to 0.87.
_MAX_BITS, _MIN_CORRELATION = 8, 0.93
_TILE = 128  # side of the square of hash pairs compared at once, in pictures: small enough for a CPU's cache

Details = Float16[np.ndarray, "n 32 32"]


@dataclass(frozen=True)
class Fingerprint:
    """What duplicates are found by.

    `digest` is the SHA-256 of size and pixels, `hash` the perceptual hash, `transposed_hash` that of the transposed
    picture, and `detail` the picture's detail, scaled to norm 1.
    """

    digest: bytes
    hash: int
    transposed_hash: int
    detail: Float16[np.ndarray, "32 32"]


def fingerprint(image: UInt8[np.ndarray, "h w 3"]) -> Fingerprint:
    """Compute the fingerprint of an RGB picture."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    small = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    frequencies = cv2.dct(grey)[:_FREQUENCIES, :_FREQUENCIES]
    frequencies[0, 0] = 0  # the mean, which depends on exposure
    detail = grey - cv2.GaussianBlur(grey, (0, 0), _BLUR_PX)
    detail -= detail.mean()
    detail /= max(float(np.linalg.norm(detail)), 1.0)  # a picture without detail matches no other
    return Fingerprint(
        digest.digest(), _pack_bits(frequencies > 0), _pack_bits(frequencies.T > 0), detail.astype(np.float16)
    )


def exact_copies(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Return the indices of pictures with equal pixels, in lists of two or more."""
    sets: dict[bytes, list[int]] = {}
    for index, picture in enumerate(fingerprints):
        sets.setdefault(picture.digest, []).append(index)
    return [indices for indices in sets.values() if len(indices) > 1]


def near_copies(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Yield index pairs (first < second) that differ only in encoding, size, exposure or one of eight orientations.

    A pair may be yielded more than once. The hashes of all pairs are compared, so the time grows with the square of
    the number of pictures. Copies that are cropped by 5 % or rotated by a few degrees are not detected, and neither is
    a second photograph of the same thing.
    """
    if not fingerprints:
        return
    upright, transposed = (
        np.array([getattr(picture, name) for picture in fingerprints], np.uint64)
        for name in ("hash", "transposed_hash")
    )
    details = np.stack([picture.detail for picture in fingerprints])
    frequency = np.arange(_FREQUENCIES) % 2 == 1
    for hashes, view_details in ((upright, details), (transposed, details.transpose(0, 2, 1))):
        for down, across in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            # Mirroring an axis changes the sign of its odd frequencies.
            sign_changes = (frequency[:, None] & (down < 0)) ^ (frequency & (across < 0))
            oriented_hashes = hashes ^ np.uint64(_pack_bits(sign_changes))
            yield from _matching_pairs(upright, oriented_hashes, details, view_details[:, ::down, ::across])


def _matching_pairs(
    hashes: UInt64[np.ndarray, " n"],
    oriented_hashes: UInt64[np.ndarray, " n"],
    details: Details,
    oriented_details: Details,
) -> Iterator[tuple[int, int]]:
    tiles = range(0, len(hashes), _TILE)
    for row, column in combinations_with_replacement(tiles, 2):
        bits = np.bitwise_count(hashes[row : row + _TILE, None] ^ oriented_hashes[column : column + _TILE])
        close = bits <= _MAX_BITS
        if close.any():
            pairs = np.argwhere(close) + np.array([row, column])
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            yield from map(tuple, pairs[_are_correlated(pairs, details, oriented_details)].tolist())


def _are_correlated(
    pairs: Int[np.ndarray, "p 2"], details: Details, oriented_details: Details
) -> Bool[np.ndarray, " p"]:
    first, second = details[pairs[:, 0]].astype(np.float32), oriented_details[pairs[:, 1]].astype(np.float32)
    return np.asarray(np.einsum("phw,phw->p", first, second) >= _MIN_CORRELATION)


def _pack_bits(bits: Bool[np.ndarray, "8 8"]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes())
