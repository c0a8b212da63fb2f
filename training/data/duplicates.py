"""Pictures that are the same, or nearly: exact by their pixels, near by a perceptual hash and then by their detail.

The hash is the signs of the 63 lowest frequencies in the cosine transform of the small grey picture (as in pHash,
Zauner 2010, which has a median in place of zero). Turning or mirroring a picture only changes signs and transposes, so
the hashes of all eight orientations follow from two. Different pictures of one kind (skin lesions, say) can have
hashes as near as copies have; detail, the small picture less its blur, tells them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Int, UInt8, UInt64

_SIDE_PX, _FREQUENCIES, _BLUR_PX = 32, 8, 2.0
# Measured on 2,125 pictures of different lesions and on copies of them (JPEG quality 40, half the size, blurred by
# 1 px, 15 % darker). Copies differ in up to 5 bits and their details correlate by 0.95 or more; lesions by up to 0.87.
_MAX_BITS, _MIN_CORRELATION = 8, 0.93
_TILE = 128  # pictures a side of what is compared at once: small enough for a CPU's cache

Details = Float16[np.ndarray, "n 32 32"]


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture: a digest of its pixels, its hash, that of its transpose, and its detail (norm 1)."""

    digest: bytes
    hash: int
    transposed_hash: int
    detail: Float16[np.ndarray, "32 32"]


def fingerprint(image: UInt8[np.ndarray, "h w 3"]) -> Fingerprint:
    """The fingerprint of an RGB picture."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    small = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    frequencies = cv2.dct(grey)[:_FREQUENCIES, :_FREQUENCIES]
    frequencies[0, 0] = 0  # the mean, which exposure changes
    detail = grey - cv2.GaussianBlur(grey, (0, 0), _BLUR_PX)
    detail -= detail.mean()
    detail /= max(float(np.linalg.norm(detail)), 1.0)  # a picture without detail is a copy of none
    return Fingerprint(
        digest.digest(), _pack_bits(frequencies > 0), _pack_bits(frequencies.T > 0), detail.astype(np.float16)
    )


def exact_copies(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Indices of pictures whose pixels are the same, in sets of two or more."""
    sets: dict[bytes, list[int]] = {}
    for index, picture in enumerate(fingerprints):
        sets.setdefault(picture.digest, []).append(index)
    return [indices for indices in sets.values() if len(indices) > 1]


def near_copies(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Pairs (first < second) that differ in encoding, size, exposure or one of the eight orientations at most.

    A pair may come more than once. All pairs are compared by their hashes, which takes a time in the square of their
    number. Pictures cropped by 5 % or turned by a few degrees are not found, nor is a second photograph.
    """
    if not fingerprints:
        return
    upright, transposed = (
        np.array([getattr(picture, name) for picture in fingerprints], np.uint64)
        for name in ("hash", "transposed_hash")
    )
    details = np.stack([picture.detail for picture in fingerprints])
    frequency = np.arange(_FREQUENCIES) % 2 == 1
    for hashes, oriented_details in ((upright, details), (transposed, details.transpose(0, 2, 1))):
        for down, across in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            # A mirrored cosine changes its sign where its frequency is odd.
            sign_changes = (frequency[:, None] & (down < 0)) ^ (frequency & (across < 0))
            oriented = hashes ^ np.uint64(_pack_bits(sign_changes))
            yield from _matching_pairs(upright, oriented, details, oriented_details[:, ::down, ::across])


def _matching_pairs(
    hashes: UInt64[np.ndarray, " n"], oriented_hashes: UInt64[np.ndarray, " n"], details: Details, oriented: Details
) -> Iterator[tuple[int, int]]:
    tiles = range(0, len(hashes), _TILE)
    for row, column in combinations_with_replacement(tiles, 2):
        bits = np.bitwise_count(hashes[row : row + _TILE, None] ^ oriented_hashes[column : column + _TILE])
        close = bits <= _MAX_BITS
        if close.any():
            pairs = np.argwhere(close) + np.array([row, column])
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            yield from map(tuple, pairs[_are_correlated(pairs, details, oriented)].tolist())


def _are_correlated(pairs: Int[np.ndarray, "p 2"], details: Details, oriented: Details) -> Bool[np.ndarray, " p"]:
    first, second = details[pairs[:, 0]].astype(np.float32), oriented[pairs[:, 1]].astype(np.float32)
    return np.asarray(np.einsum("phw,phw->p", first, second) >= _MIN_CORRELATION)


def _pack_bits(bits: Bool[np.ndarray, "8 8"]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes())
